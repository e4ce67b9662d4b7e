//! Which ranges of guest-virtual addresses a program has mapped, and with which rights.
//! Bookkeeping only: page tables are edited in `space.rs`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Protection;

/// As Linux's `vm.max_map_count`: what one program may have.
const MAX_AREAS: usize = 65_530;

/// The mapped ranges of one program; neighbours with equal rights are one area.
#[derive(Debug, Clone, Default)]
pub(crate) struct Areas {
    by_start: BTreeMap<u64, Area>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Area {
    end: u64,
    prot: Protection,
}

impl Areas {
    /// The parts of `range` that are mapped, in order.
    pub(crate) fn within(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, Protection)> + '_ {
        let range = range.start.min(range.end)..range.end;
        let first = self
            .by_start
            .range(..=range.start)
            .next_back()
            .map_or(0, |(start, _)| *start);
        self.by_start
            .range(first..range.end)
            .filter_map(move |(&start, area)| {
                let part = start.max(range.start)..area.end.min(range.end);
                (!part.is_empty()).then_some((part, area.prot))
            })
    }

    /// Whether nothing in `range` is mapped.
    pub(crate) fn is_free(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_none()
    }

    /// Whether every byte of `range` is mapped.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        let mut next = range.start;
        for (part, _) in self.within(range.clone()) {
            if part.start != next {
                return false;
            }
            next = part.end;
        }
        next == range.end
    }

    /// Maps `range`, over whatever was there. False: there are too many areas.
    pub(crate) fn insert(&mut self, range: Range<u64>, prot: Protection) -> bool {
        if self.by_start.len() >= MAX_AREAS {
            return false;
        }
        self.remove(range.clone());
        let mut merged = range;
        if let Some((&start, before)) = self.by_start.range(..merged.start).next_back()
            && before.end == merged.start
            && before.prot == prot
        {
            merged.start = start;
        }
        if let Some(after) = self.by_start.get(&merged.end).copied()
            && after.prot == prot
        {
            self.by_start.remove(&merged.end);
            merged.end = after.end;
        }
        self.by_start.insert(
            merged.start,
            Area {
                end: merged.end,
                prot,
            },
        );
        true
    }

    /// Whether `range` can be unmapped without making too many areas.
    pub(crate) fn may_remove(&self, range: &Range<u64>) -> bool {
        let before = self.by_start.range(..range.start).next_back();
        let splits = before.is_some_and(|(_, area)| area.end > range.end);
        !splits || self.by_start.len() < MAX_AREAS
    }

    /// Unmaps `range`.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        while let Some((&start, &area)) = self.by_start.range(..range.end).next_back() {
            if area.end <= range.start {
                break;
            }
            self.by_start.remove(&start);
            if area.end > range.end {
                self.by_start.insert(range.end, area);
            }
            if start < range.start {
                self.by_start.insert(
                    start,
                    Area {
                        end: range.start,
                        prot: area.prot,
                    },
                );
                break;
            }
        }
    }

    /// The lowest free range of `len` bytes inside `within`.
    pub(crate) fn find_free(&self, within: Range<u64>, len: u64) -> Option<u64> {
        let mut candidate = within.start;
        for (part, _) in self.within(within.clone()) {
            if part.start.checked_sub(candidate)? >= len {
                return Some(candidate);
            }
            candidate = part.end;
        }
        (within.end.checked_sub(candidate)? >= len).then_some(candidate)
    }

    /// The highest free range of `len` bytes inside `within`.
    pub(crate) fn find_free_from_top(&self, within: Range<u64>, len: u64) -> Option<u64> {
        let mut top = within.end;
        for (&start, area) in self.by_start.range(..within.end).rev() {
            if area.end <= within.start {
                break;
            }
            if top.checked_sub(area.end).is_some_and(|gap| gap >= len) {
                break;
            }
            top = start;
        }
        let start = top.checked_sub(len)?;
        (start >= within.start).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: Protection = Protection::READ_WRITE;
    const R: Protection = Protection::READ;

    fn areas<const N: usize>(ranges: [(u64, u64); N]) -> Areas {
        let mut areas = Areas::default();
        for (start, end) in ranges {
            assert!(areas.insert(start..end, RW));
        }
        areas
    }

    #[test]
    fn a_hole_splits_an_area_and_filling_it_joins_them_again() {
        let mut areas = areas([(0x1000, 0x9000)]);
        areas.remove(0x3000..0x4000);
        assert!(!areas.covers(0x1000..0x9000));
        assert!(areas.is_free(0x3000..0x4000));
        areas.insert(0x3000..0x4000, RW);
        let all: Vec<_> = areas.within(0..0x10000).collect();
        assert_eq!(all, [(0x1000..0x9000, RW)]);
    }

    #[test]
    fn other_rights_make_an_area_of_their_own() {
        let mut areas = areas([(0x1000, 0x5000)]);
        areas.insert(0x2000..0x3000, R);
        let all: Vec<_> = areas.within(0..0x10000).collect();
        assert_eq!(
            all,
            [
                (0x1000..0x2000, RW),
                (0x2000..0x3000, R),
                (0x3000..0x5000, RW)
            ]
        );
        assert!(areas.covers(0x1000..0x5000));
    }

    #[test]
    fn free_ranges_are_found_from_both_ends() {
        let areas = areas([(0x2000, 0x3000), (0x6000, 0x7000)]);
        assert_eq!(areas.find_free(0x1000..0x10000, 0x1000), Some(0x1000));
        assert_eq!(areas.find_free(0x1000..0x10000, 0x2000), Some(0x3000));
        assert_eq!(areas.find_free(0x1000..0x10000, 0x9000), Some(0x7000));
        assert_eq!(areas.find_free(0x1000..0x10000, 0xa000), None);
        assert_eq!(
            areas.find_free_from_top(0x1000..0x8000, 0x1000),
            Some(0x7000)
        );
        assert_eq!(
            areas.find_free_from_top(0x1000..0x8000, 0x3000),
            Some(0x3000)
        );
        assert_eq!(areas.find_free_from_top(0x1000..0x8000, 0x4000), None);
    }

    #[test]
    fn unmapping_makes_no_more_areas_than_mapping_may() {
        let mut areas = areas([(0, 1 << 40)]);
        let mut removed: u64 = 0;
        while areas.may_remove(&(removed * 0x2000 + 0x1000..removed * 0x2000 + 0x2000)) {
            areas.remove(removed * 0x2000 + 0x1000..removed * 0x2000 + 0x2000);
            removed += 1;
        }
        assert_eq!(areas.by_start.len(), MAX_AREAS);
        assert!(areas.may_remove(&(0..0x1000)), "a whole area may go");
        assert!(!areas.insert(1 << 41..1 << 42, RW));
    }

    #[test]
    fn removing_over_several_areas_keeps_the_outer_parts() {
        let mut areas = areas([(0x1000, 0x3000), (0x4000, 0x5000), (0x6000, 0x9000)]);
        areas.remove(0x2000..0x7000);
        let all: Vec<_> = areas.within(0..0x10000).collect();
        assert_eq!(all, [(0x1000..0x2000, RW), (0x7000..0x9000, RW)]);
    }
}
