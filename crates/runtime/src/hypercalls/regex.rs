//! Regular expressions for programs.
//!
//! Guards: a pattern cannot use more memory or stack than is set aside for it, and all of a VM no more
//! than [`MAX_WEIGHT`] allows; one search takes no more than [`MAX_WORK`] and is the last one once the
//! deadline has passed; what a request compiled or freed is undone by the reset.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ast::{self, Ast, Flag, Flags, GroupKind};
use sandbox::{Fault, GuestVirt, VmCall};
use tinykvm_sys::abi;

use super::http::side;
use super::{Reply, Scene, Text, low16, low32};
use crate::exchange::{FieldError, Side};

const MAX_HANDLES: usize = abi::TINYKVM_MAX_REGEXES as usize;
/// What a text to be searched, a replacement and a result may have.
const MAX_TEXT: u32 = 1 << 20;
/// Sizes of compiled patterns, in the order they are tried: how much work a byte of text may make.
const WEIGHTS: [usize; 3] = [8 << 10, 32 << 10, 256 << 10];
/// Of all patterns of a VM together. To search takes memory of the host in proportion to it.
const MAX_WEIGHT: usize = 2 << 20;
/// Weight times bytes of text for one search, which nothing can interrupt: about a second.
const MAX_WORK: usize = 8 << 30;
/// A search that tells groups keeps all of them for each state of the pattern.
const MAX_GROUPS: usize = 32;
const MAX_DFA: usize = 512 << 10;
const MAX_NESTING: u32 = 100;
const COMPILER_STACK: usize = 1 << 20;

/// The handles of one VM: the image's and those of the request.
#[derive(Debug, Default)]
pub(crate) struct Regexes {
    handles: Vec<Option<Arc<Entry>>>,
    frozen: Arc<[Option<Arc<Entry>>]>,
    changed: bool,
}

#[derive(Debug)]
struct Entry {
    pattern: Vec<u8>,
    regex: Regex,
    weight: usize,
}

impl Entry {
    /// Whether a text of this length can be searched in bounded time.
    fn check(&self, len: usize) -> Result<(), Fault> {
        self.check_work(len, self.weight)
    }

    /// The same for a search that tells what the groups matched.
    fn check_groups(&self, len: usize) -> Result<(), Fault> {
        self.check_work(len, self.weight * self.regex.captures_len())
    }

    fn check_work(&self, len: usize, weight: usize) -> Result<(), Fault> {
        let longest = MAX_WORK / weight;
        if len <= longest {
            return Ok(());
        }
        Err(Fault::Misuse(format!(
            "a text of {len} bytes for a regular expression this complex, allowed are {longest}"
        )))
    }
}

/// A fault once the guest's time is over.
fn in_time(deadline: Instant) -> Result<(), Fault> {
    if Instant::now() < deadline {
        Ok(())
    } else {
        Err(Fault::TimedOut)
    }
}

impl Regexes {
    /// For a fork: what the image compiled stays.
    pub(crate) fn fork(&self) -> Self {
        let frozen: Arc<[_]> = self.handles.as_slice().into();
        Self {
            handles: frozen.to_vec(),
            frozen,
            changed: false,
        }
    }

    pub(super) fn reset(&mut self) {
        let Self {
            handles,
            frozen,
            changed,
        } = self;
        if std::mem::take(changed) {
            handles.clear();
            handles.extend(frozen.iter().cloned());
        }
    }

    fn compile(&mut self, pattern: &[u8]) -> Result<usize, Fault> {
        let same = |entry: &Arc<Entry>| entry.pattern == pattern;
        if let Some(at) = self
            .handles
            .iter()
            .position(|entry| entry.as_ref().is_some_and(same))
        {
            return Ok(at);
        }
        let free = self.handles.iter().position(Option::is_none);
        if free.is_none() && self.handles.len() >= MAX_HANDLES {
            return Err(Fault::Misuse(format!(
                "more than {MAX_HANDLES} regular expressions"
            )));
        }
        let (regex, weight) = build(pattern)?;
        let others: usize = self.handles.iter().flatten().map(|own| own.weight).sum();
        if others + weight > MAX_WEIGHT {
            return Err(Fault::Misuse(
                "the regular expressions of the program are too complex together".to_owned(),
            ));
        }
        let entry = Arc::new(Entry {
            pattern: pattern.to_vec(),
            regex,
            weight,
        });
        self.changed = true;
        match free.and_then(|at| Some((at, self.handles.get_mut(at)?))) {
            Some((at, place)) => {
                *place = Some(entry);
                Ok(at)
            }
            None => {
                self.handles.push(Some(entry));
                Ok(self.handles.len() - 1)
            }
        }
    }

    fn free(&mut self, handle: u32) -> Result<(), Fault> {
        self.get(handle)?;
        let at = usize::try_from(handle).unwrap_or(usize::MAX);
        if let Some(place) = self.handles.get_mut(at) {
            *place = None;
        }
        self.changed = true;
        Ok(())
    }

    fn get(&self, handle: u32) -> Result<&Arc<Entry>, Fault> {
        let at = usize::try_from(handle).unwrap_or(usize::MAX);
        let entry = self.handles.get(at).and_then(Option::as_ref);
        entry.ok_or_else(|| {
            Fault::Misuse(format!(
                "{} is not a regular expression",
                handle.cast_signed()
            ))
        })
    }
}

/// Compiles a pattern on a thread of its own: the compiler recurses into nested patterns, and the
/// thread that serves a request may have little stack. Answers its weight as well.
fn build(pattern: &[u8]) -> Result<(Regex, usize), Fault> {
    let bad = |why: &str| Fault::Misuse(format!("bad regular expression: {why}"));
    let pattern = std::str::from_utf8(pattern).map_err(|_| bad("it is not UTF-8"))?;
    let mut builder = RegexBuilder::new(pattern);
    builder
        .dfa_size_limit(MAX_DFA)
        .nest_limit(MAX_NESTING)
        .unicode(false);
    let compile = || {
        examine(pattern)?;
        let mut compiled = Err(regex::Error::CompiledTooBig(0));
        for weight in WEIGHTS {
            compiled = builder
                .size_limit(weight)
                .build()
                .map(|regex| (regex, weight));
            if !matches!(compiled, Err(regex::Error::CompiledTooBig(_))) {
                break;
            }
        }
        compiled.map_err(|error| error.to_string())
    };
    let compiled = thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("tinykvm-regex".to_owned())
            .stack_size(COMPILER_STACK)
            .spawn_scoped(scope, compile);
        thread.map(thread::ScopedJoinHandle::join)
    });
    match compiled {
        Ok(Ok(Ok(compiled))) => Ok(compiled),
        Ok(Ok(Err(why))) => Err(bad(&why)),
        Ok(Err(_panic)) => Err(bad("the compiler failed")),
        Err(error) => Err(bad(&format!("no thread to compile it: {error}"))),
    }
}

/// Refuses what the compiler has no limit for: Unicode classes, each of them some 40 KiB of ranges
/// before any size is looked at, and many groups.
fn examine(pattern: &str) -> Result<(), String> {
    struct Costs {
        groups: usize,
        unicode: bool,
    }
    impl Costs {
        fn flags(&mut self, flags: &Flags) {
            self.unicode |= flags.flag_state(Flag::Unicode) == Some(true);
        }
    }
    impl ast::Visitor for Costs {
        type Output = Self;
        type Err = String;

        fn finish(self) -> Result<Self, String> {
            Ok(self)
        }

        fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
            match ast {
                Ast::Flags(set) => self.flags(&set.flags),
                Ast::Group(group) => match &group.kind {
                    GroupKind::NonCapturing(flags) => self.flags(flags),
                    _ => self.groups += 1,
                },
                _ => {}
            }
            Ok(())
        }
    }
    let parsed = ast::parse::ParserBuilder::new()
        .nest_limit(MAX_NESTING)
        .build()
        .parse(pattern)
        .map_err(|error| error.kind().to_string())?;
    let costs = Costs {
        groups: 0,
        unicode: false,
    };
    let costs = ast::visit(&parsed, costs)?;
    if costs.unicode {
        return Err("the flag u is not supported".to_owned());
    }
    if costs.groups > MAX_GROUPS {
        let groups = costs.groups;
        return Err(format!("{groups} groups, allowed are {MAX_GROUPS}"));
    }
    Ok(())
}

pub(super) fn compile(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let len = u64::from(low16(vm.regs.rsi));
    let text = Text {
        at: vm.regs.rdi,
        len,
        max: abi::TINYKVM_MAX_REGEX_TEXT,
    };
    scene.with_text(vm, text, |scene, _, pattern| {
        let handle = scene.desk.regexes.compile(pattern)?;
        Ok(Reply::Value(u64::try_from(handle).unwrap_or(u64::MAX)))
    })
}

pub(super) fn free(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    scene.desk.regexes.free(low32(vm.regs.rdi))?;
    Ok(Reply::Nothing)
}

pub(super) fn is_match(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let handle = low32(vm.regs.rdi);
    let text = Text {
        at: vm.regs.rsi,
        len: vm.regs.rdx,
        max: MAX_TEXT,
    };
    scene.with_text(vm, text, |scene, _, text| {
        let entry = scene.desk.regexes.get(handle)?;
        entry.check(text.len())?;
        let found = entry.regex.is_match(text);
        // As PCRE tells it: the number of groups, or "no match".
        Ok(if found {
            Reply::Value(1)
        } else {
            Reply::MINUS_ONE
        })
    })
}

pub(super) fn subst(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let entry = Arc::clone(scene.desk.regexes.get(low32(vm.regs.rdi))?);
    scene.exchange("sys_regex_subst")?;
    let max = usize::try_from(MAX_TEXT).unwrap_or(0);
    let text = vm.memory.read_cstr(GuestVirt::new(vm.regs.rsi), max)?;
    entry.check_groups(text.len())?;
    let replacement = vm.memory.read_cstr(GuestVirt::new(vm.regs.rdx), max)?;
    let (out, size) = (
        GuestVirt::new(vm.regs.rcx),
        usize::try_from(vm.regs.r8).unwrap_or(0),
    );
    let all = vm.regs.r9 & u64::from(abi::TINYKVM_REGEX_ALL) != 0;

    let more = || in_time(vm.deadline);
    let mut result = substitute(&entry.regex, &text, &replacement, all, size.min(max), more)?;
    result.push(0);
    result.truncate(size);
    vm.memory.write(out, &result)?;
    Ok(Reply::Value(u64::try_from(result.len()).unwrap_or(0)))
}

/// Replaces the first match or all. `\0` to `\9` in the replacement are groups. Stops once the
/// result has more than `enough` bytes; asks before each search whether there may be `more`, since all
/// together they may take time quadratic in the text.
fn substitute(
    regex: &Regex,
    text: &[u8],
    replacement: &[u8],
    all: bool,
    enough: usize,
    more: impl Fn() -> Result<(), Fault>,
) -> Result<Vec<u8>, Fault> {
    let mut result = Vec::new();
    let mut copied = 0;
    let limit = if all { usize::MAX } else { 1 };
    for groups in regex.captures_iter(text).take(limit) {
        more()?;
        let Some(whole) = groups.get(0) else { break };
        result.extend_from_slice(text.get(copied..whole.start()).unwrap_or_default());
        copied = whole.end();
        let mut rest = replacement.iter();
        while let Some(&byte) = rest.next() {
            if byte != b'\\' {
                result.push(byte);
                continue;
            }
            match rest.next() {
                Some(&digit) if digit.is_ascii_digit() => {
                    let group = groups.get(usize::from(digit - b'0'));
                    result.extend_from_slice(group.map(|g| g.as_bytes()).unwrap_or_default());
                }
                Some(&other) => result.push(other),
                None => result.push(b'\\'),
            }
            if result.len() > enough {
                return Ok(result);
            }
        }
        if result.len() > enough {
            return Ok(result);
        }
    }
    result.extend_from_slice(text.get(copied..).unwrap_or_default());
    Ok(result)
}

/// Appends the request's header fields that match to another table.
pub(super) fn copyto(scene: &mut Scene<'_>, vm: &mut VmCall<'_>) -> Result<Reply, Fault> {
    let entry = Arc::clone(scene.desk.regexes.get(low32(vm.regs.rdi))?);
    let (from, to) = (side(vm.regs.rsi)?, side(vm.regs.rdx)?);
    if from != Side::Request {
        return Err(Fault::Misuse(
            "sys_regex_copyto copies fields of the request only".to_owned(),
        ));
    }
    let exchange = scene.exchange("sys_regex_copyto")?;
    let mut matching: Vec<Vec<u8>> = Vec::new();
    let mut result = Ok(());
    exchange.visit_request_headers(&mut |field| {
        if result.is_ok() {
            result = in_time(vm.deadline).and_then(|()| entry.check(field.len()));
        }
        if result.is_ok() && entry.regex.is_match(field) {
            matching.push(field.to_vec());
        }
    });
    result?;
    let mut copied = 0;
    for field in matching {
        match exchange.append(to, &field) {
            Ok(_) => copied += 1,
            Err(FieldError::Full | FieldError::NoSpace) => break,
            Err(error @ (FieldError::NotAvailable | FieldError::Refused(_))) => {
                return Err(Fault::Misuse(error.to_string()));
            }
        }
    }
    Ok(Reply::Value(copied))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_the_image_survive_and_those_of_a_request_vanish() {
        let mut image = Regexes::default();
        let inherited = image.compile(b"a+").unwrap();
        let mut vm = image.fork();
        let own = vm.compile(b"b+").unwrap();
        assert_ne!(inherited, own);
        assert_eq!(vm.compile(b"a+").unwrap(), inherited);
        vm.free(u32::try_from(inherited).unwrap()).unwrap();
        assert!(vm.get(u32::try_from(inherited).unwrap()).is_err());
        let weak = Arc::downgrade(vm.get(u32::try_from(own).unwrap()).unwrap());
        vm.reset();
        assert!(weak.upgrade().is_none());
        assert!(vm.get(u32::try_from(inherited).unwrap()).is_ok());
        assert!(vm.get(u32::try_from(own).unwrap()).is_err());
    }

    #[test]
    fn the_65th_handle_is_refused_and_a_freed_one_is_used_again() {
        let mut regexes = Regexes::default();
        for number in 0..64 {
            assert_eq!(
                regexes.compile(format!("x{number}").as_bytes()).unwrap(),
                number
            );
        }
        assert!(regexes.compile(b"one more").is_err());
        regexes.free(7).unwrap();
        assert_eq!(regexes.compile(b"one more").unwrap(), 7);
        for bad in [64, u32::MAX] {
            assert!(regexes.free(bad).is_err());
        }
    }

    #[test]
    fn patterns_made_to_hurt_are_refused() {
        let nested = format!("{}{}", "(".repeat(5000), ")".repeat(5000));
        let huge = "(((a{100}){100}){100}){100}".to_owned();
        for pattern in [nested, huge, "(".to_owned(), "\\1".to_owned()] {
            assert!(matches!(build(pattern.as_bytes()), Err(Fault::Misuse(_))));
        }
        assert!(build(b"\xff").is_err());
    }

    #[test]
    fn patterns_that_would_take_the_hosts_memory_or_time_are_refused() {
        let groups = |count: usize| "()".repeat(count) + "[ab]{3}";
        for (pattern, why) in [
            (groups(33), "33 groups"),
            (groups(2600), "2600 groups"),
            ("(?iu)".to_owned() + &"\\pL".repeat(21_800), "flag u"),
            ("(?x-i:a(?u:\\w))".to_owned(), "flag u"),
            ("\\pL".to_owned(), "Unicode"),
        ] {
            let refused = build(pattern.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
        for pattern in [groups(32), "\\(?u".to_owned(), "[(?u](?-u:a)".to_owned()] {
            assert!(build(pattern.as_bytes()).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn the_patterns_of_a_vm_are_bounded_together_and_groups_count_as_work() {
        let heavy = |number: u32| format!("{number}(?:[ab]{{0,900}}a)*c");
        let mut regexes = Regexes::default();
        let fitting =
            (0..64).take_while(|&number| regexes.compile(heavy(number).as_bytes()).is_ok());
        assert_eq!(fitting.count(), 8);
        regexes.free(0).unwrap();
        assert_eq!(regexes.compile(b"(a)(b)").unwrap(), 0);
        let entry = regexes.get(0).unwrap();
        assert!(entry.check(1 << 20).is_ok());
        assert!(entry.check_groups(1 << 20).is_err());
        assert!(entry.check_groups(300_000).is_ok());
    }

    #[test]
    fn substitution_knows_groups_and_stops_when_the_room_is_used_up() {
        let substitute = |regex: &Regex, text: &[u8], new: &[u8], all, enough| {
            substitute(regex, text, new, all, enough, || Ok(())).unwrap()
        };
        let (regex, _) = build(b"([a-z]+)=([0-9]+)").unwrap();
        let text = b"a=1, b=2";
        assert_eq!(
            substitute(&regex, text, b"\\2=\\1", false, 100),
            b"1=a, b=2"
        );
        assert_eq!(substitute(&regex, text, b"\\2=\\1", true, 100), b"1=a, 2=b");
        assert_eq!(
            substitute(&regex, text, b"\\\\\\x\\", true, 100),
            b"\\x\\, \\x\\"
        );
        assert_eq!(substitute(&regex, b"none", b"x", true, 100), b"none");
        let bomb = vec![b'a'; 1 << 20];
        let (every, _) = build(b"a").unwrap();
        assert!(substitute(&every, &bomb, &bomb, true, 100).len() <= (1 << 20) + 1);
    }

    #[test]
    fn a_search_that_could_take_long_is_refused_and_many_end_at_the_deadline() {
        let text = vec![b'A'; 1 << 20];
        let (regex, weight) = build(b".*[^A-Z]|[A-Z]").unwrap();
        let entry = Entry {
            pattern: Vec::new(),
            regex,
            weight,
        };
        assert!(entry.check(text.len()).is_ok());
        // Each match looks at the rest of the text to its end.
        let deadline = Instant::now() + std::time::Duration::from_millis(20);
        let more = || in_time(deadline);
        let end = substitute(&entry.regex, &text, b"", true, 1 << 20, more);
        assert_eq!(end, Err(Fault::TimedOut));

        let (regex, weight) = build(b"(?:[ab]{0,900}a)*c").unwrap();
        let heavy = Entry {
            pattern: Vec::new(),
            regex,
            weight,
        };
        assert!(matches!(heavy.check(1 << 20), Err(Fault::Misuse(_))));
        assert!(heavy.check(8 << 10).is_ok());
    }
}
