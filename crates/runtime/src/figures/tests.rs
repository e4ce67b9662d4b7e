use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::*;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn is_updating() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

#[test]
fn the_documentation_says_what_the_table_of_figures_says() {
    const BEGIN: &str = "<!-- figures: begin -->\n\n";
    const END: &str = "<!-- figures: end -->";
    let path = repository().join("docs/operations.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (shown, behind) = rest.split_once(END).unwrap();
    if is_updating() {
        let new = format!("{before}{BEGIN}{}{END}{behind}", documentation());
        std::fs::write(&path, new).unwrap();
        return;
    }
    assert!(
        shown == documentation(),
        "docs/operations.md is not up to date: run this test with UPDATE_DOCS=1"
    );
}

#[test]
fn varnishstat_is_told_what_the_table_of_figures_says() {
    for segment in [PROCESS_SEGMENT, PROGRAM_SEGMENT] {
        let path = repository().join(format!("vmod/{segment}.vsc"));
        if is_updating() {
            std::fs::write(&path, vsc_source(segment)).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == vsc_source(segment),
            "{} is not up to date: run this test with UPDATE_DOCS=1",
            path.display()
        );
    }
}

#[test]
fn a_name_means_one_figure() {
    let mut keys = HashMap::new();
    let mut counters = BTreeSet::new();
    let mut samples = BTreeSet::new();
    let mut families: Vec<&str> = Vec::new();
    for figure in TABLE {
        assert!(!figure.help.is_empty() && !figure.help.contains('\n'));
        if !figure.key.is_empty() {
            let twice = keys.insert((format!("{:?}", figure.place), figure.key), figure.help);
            assert_eq!(twice, None, "{}", figure.key);
        }
        if !figure.vsc.is_empty() {
            assert!(counters.insert(figure.vsc), "{}", figure.vsc);
        }
        if !figure.metric.is_empty() {
            assert!(
                samples.insert((figure.metric, figure.label)),
                "{}",
                figure.metric
            );
            if families.last() != Some(&figure.metric) {
                assert!(!families.contains(&figure.metric), "{}", figure.metric);
                families.push(figure.metric);
            }
        }
    }
    for key in ["invocations", "timeouts", "reset_time"] {
        assert!(
            !keys.contains_key(&("Machine".to_owned(), key)),
            "twice in a machine: {key}"
        );
        assert!(
            !keys.contains_key(&("Totals".to_owned(), key)),
            "twice in totals: {key}"
        );
    }
}

#[test]
fn upstreams_counters_keep_their_names() {
    let names: Vec<&str> = TABLE
        .iter()
        .map(|f| f.vsc)
        .filter(|n| !n.is_empty())
        .collect();
    let upstreams = [
        "program_notfound",
        "program_exception",
        "program_timeout",
        "program_status_4xx",
        "program_status_5xx",
        "cpu_time",
        "fetch_time",
        "self_requests",
        "self_requests_failed",
    ];
    assert_eq!(names.get(..upstreams.len()), Some(&upstreams[..]));
}

#[test]
fn metrics_are_named_as_prometheus_wants_it() {
    for figure in TABLE.iter().filter(|figure| !figure.metric.is_empty()) {
        let name = figure.metric;
        assert_eq!(name.ends_with("_total"), !figure.kind.is_level(), "{name}");
        assert_eq!(name.contains("_seconds"), figure.is_time(), "{name}");
        let bytes = matches!(figure.kind, Kind::Bytes | Kind::LevelBytes);
        assert_eq!(name.contains("_bytes"), bytes, "{name}");
    }
}

#[test]
fn the_text_follows_the_format_whatever_programs_are_called() {
    let mut reading = Reading::default();
    reading.slots.reset_time = 1_000_000_001;
    reading.slots.invocations = u64::MAX;
    let names = ["plain", "with \"quotes\"", "back\\slash", "\u{e9}{}=,#"];
    let programs: BTreeMap<String, Reading> = names
        .iter()
        .map(|name| ((*name).to_owned(), reading))
        .collect();
    let text = prometheus::write(&reading, &programs);
    let samples = parse(&text);
    for name in names {
        let of = |metric: &str| {
            let labels = vec![("program".to_owned(), name.to_owned())];
            samples[&(metric.to_owned(), labels)].clone()
        };
        assert_eq!(of("tinykvm_reset_seconds_total"), "1.000000001");
        assert_eq!(of("tinykvm_invocations_total"), u64::MAX.to_string());
    }
    let process = ("tinykvm_unknown_programs_total".to_owned(), vec![]);
    assert_eq!(samples[&process], "0");
}

#[test]
fn without_programs_there_are_only_the_figures_of_the_process() {
    let samples = parse(&prometheus::write(&Reading::default(), &BTreeMap::new()));
    let of_process = TABLE
        .iter()
        .filter(|f| f.is_of_process() && !f.metric.is_empty());
    assert_eq!(samples.len(), of_process.count());
}

type Samples = HashMap<(String, Vec<(String, String)>), String>;

/// A strict reader of the Prometheus text format 0.0.4: every family has HELP and TYPE before its
/// samples and stands in one piece, no sample comes twice, names and escapes are legal.
fn parse(text: &str) -> Samples {
    let mut samples = Samples::new();
    let mut ended = BTreeSet::new();
    let mut family = String::new();
    let (mut helped, mut typed) = (false, false);
    assert!(
        text.ends_with('\n'),
        "the last line must end in a line feed"
    );
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(ended.insert(family.clone()) || family.is_empty());
            assert!(is_name(name) && !ended.contains(name), "{line}");
            unescape(help, false);
            (family, helped, typed) = (name.to_owned(), true, false);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(helped && !typed && name == family, "{line}");
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            typed = true;
        } else {
            assert!(typed, "a sample without type: {line}");
            let (name, labels, value) = sample(line);
            assert_eq!(name, family, "{line}");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert_eq!(samples.insert((name, labels), value), None, "{line}");
        }
    }
    samples
}

fn sample(line: &str) -> (String, Vec<(String, String)>, String) {
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ').expect("a value");
        assert!(is_name(name), "{line}");
        return (name.to_owned(), vec![], value.to_owned());
    };
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    loop {
        let (label, behind) = rest.split_once("=\"").expect("a label");
        assert!(is_name(label) && !label.contains(':'), "{line}");
        let mut escaped = false;
        let end = behind
            .find(|c: char| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })
            .expect("the end of the label");
        labels.push((label.to_owned(), unescape(&behind[..end], true)));
        match &behind[end + 1..] {
            more if more.starts_with(',') => rest = &more[1..],
            more => {
                let value = more.strip_prefix("} ").expect("a value");
                return (name.to_owned(), labels, value.to_owned());
            }
        }
    }
}

fn unescape(text: &str, is_label: bool) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if is_label => out.push('"'),
                other => panic!("escape {other:?} in {text:?}"),
            },
            '"' => panic!("a quote in {text:?}"),
            other => out.push(other),
        }
    }
    out
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    !name.is_empty() && name.chars().all(legal) && !name.starts_with(|c: char| c.is_ascii_digit())
}
