//! The Prometheus text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use regex::Regex;

use super::{Figure, Kind, Reading, TABLE, ledger};

/// The figures of the process, and of the programs whose names match anywhere.
pub(crate) fn text(pattern: &Regex) -> String {
    let (process, mut programs) = ledger::read();
    programs.retain(|name, _| pattern.is_match(name));
    write(&process, &programs)
}

pub(super) fn write(process: &Reading, programs: &BTreeMap<String, Reading>) -> String {
    let mut out = String::new();
    let mut family = "";
    for figure in TABLE.iter().filter(|figure| !figure.metric.is_empty()) {
        let of_process = figure.is_of_process();
        if !of_process && programs.is_empty() {
            continue;
        }
        if figure.metric != family {
            family = figure.metric;
            let kind = if figure.kind.is_level() {
                "gauge"
            } else {
                "counter"
            };
            // Writing to a String cannot fail, here and below.
            let _always_ok = write!(
                out,
                "# HELP {family} {}\n# TYPE {family} {kind}\n",
                escaped(figure.help, false)
            );
        }
        if of_process {
            sample(&mut out, figure, None, process);
        } else {
            for (name, reading) in programs {
                sample(&mut out, figure, Some(name), reading);
            }
        }
    }
    out
}

fn sample(out: &mut String, figure: &Figure, program: Option<&str>, reading: &Reading) {
    out.push_str(figure.metric);
    let program = program.map(|name| format!("program=\"{}\"", escaped(name, true)));
    let own = figure
        .label
        .split_once('=')
        .map(|(label, value)| format!("{label}=\"{value}\""));
    let labels: Vec<String> = program.into_iter().chain(own).collect();
    if !labels.is_empty() {
        let _always_ok = write!(out, "{{{}}}", labels.join(","));
    }
    let value = (figure.read)(reading);
    let _always_ok = match figure.kind {
        Kind::Time => writeln!(
            out,
            " {}.{:09}",
            value / 1_000_000_000,
            value % 1_000_000_000
        ),
        _ => writeln!(out, " {value}"),
    };
}

/// Help texts escape backslash and line feed, label values quotes too.
fn escaped(text: &str, is_label: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if is_label => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out
}
