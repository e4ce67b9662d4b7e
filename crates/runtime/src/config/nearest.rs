//! Which known word a misspelt one was probably meant to be.

/// Longer words are no misspelt keys, and comparing costs length times length.
const LONGEST: usize = 64;

/// The most similar of `known`, if it is similar enough to be worth naming.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word
        .chars()
        .take(LONGEST + 1)
        .flat_map(char::to_lowercase)
        .collect();
    if word.len() > LONGEST {
        return None;
    }
    let allowed = (word.len() / 3).max(2);
    known
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= allowed && distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's: how many characters to insert, delete or change.
fn distance(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (line, b) in b.chars().enumerate() {
        let mut left = line + 1;
        let mut diagonal = line;
        for (cell, &a) in row.iter_mut().skip(1).zip(a) {
            let above = *cell;
            let changed = diagonal + usize::from(a != b);
            left = changed.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(a: &str, b: &str) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), b)
    }

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("same", "same", 0),
        ] {
            assert_eq!(between(a, b), expected, "{a} {b}");
            assert_eq!(between(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn a_misspelt_key_finds_its_word_and_nonsense_finds_none() {
        let known = ["max_memory", "max_request_memory", "max_boot_time"];
        let find = |word| nearest(word, known.into_iter());
        assert_eq!(find("max_memry"), Some("max_memory"));
        assert_eq!(find("MAX_MEMORY"), Some("max_memory"));
        assert_eq!(find("max_work_memory"), Some("max_memory"));
        assert_eq!(find("xyz"), None);
        assert_eq!(find(""), None);
        assert_eq!(find(&"max_memory".repeat(100)), None);
    }
}
