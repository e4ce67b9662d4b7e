//! The table as text: the descriptions that Varnish's vsctool.py reads (`vmod/*.vsc`) and the
//! tables of `docs/operations.md`.

use std::fmt::Write as _;

use super::{Figure, Kind, Place, TABLE};

/// The set of counters of the process. In `varnishstat` it is in capitals.
pub const PROCESS_SEGMENT: &str = "vmod_kvm";
/// The set of counters of a program.
pub const PROGRAM_SEGMENT: &str = "vmod_kvm_program";

/// The description of one set, for vsctool.py.
pub fn vsc_source(segment: &str) -> String {
    let of_process = segment == PROCESS_SEGMENT;
    let what = if of_process {
        "TinyKVM, all programs"
    } else {
        "TinyKVM, one program"
    };
    let mut out = format!(
        "..\n\tMade from crates/runtime/src/figures/table.rs: see there.\n\n\
         .. varnish_vsc_begin::\t{segment}\n\t:oneliner:\t{what}\n\t:order:\t\t80\n\n"
    );
    for figure in TABLE
        .iter()
        .filter(|figure| !figure.vsc.is_empty() && (of_process || !figure.is_of_process()))
    {
        let kind = if figure.kind.is_level() {
            "gauge"
        } else {
            "counter"
        };
        let format = match figure.kind {
            Kind::Bytes | Kind::LevelBytes => "bytes",
            Kind::Time if !figure.vsc.ends_with("_us") => "duration",
            _ => "integer",
        };
        let unit = if figure.vsc.ends_with("_us") {
            " (microseconds)"
        } else {
            ""
        };
        // Writing to a String cannot fail.
        let _always_ok = write!(
            out,
            ".. varnish_vsc::\t{}\n\t:type:\t{kind}\n\t:level:\tinfo\n\t:format:\t{format}\n\
             \t:oneliner:\t{}{unit}\n\n",
            figure.vsc, figure.help
        );
    }
    out.push_str(".. varnish_vsc_end::\t");
    out.push_str(segment);
    out.push('\n');
    out
}

/// One Markdown table with all names of each figure.
pub fn documentation() -> String {
    let mut out = String::from(
        "| `stats()` | `varnishstat` | Prometheus | Meaning |\n| --- | --- | --- | --- |\n",
    );
    for figure in TABLE {
        let _always_ok = writeln!(
            out,
            "| {} | {} | {} | {} |",
            place(figure),
            code(figure.vsc),
            metric(figure),
            figure.help
        );
    }
    out.push('\n');
    out
}

fn code(name: &str) -> String {
    if name.is_empty() {
        String::new()
    } else {
        format!("`{name}`")
    }
}

fn place(figure: &Figure) -> String {
    match figure.place {
        Place::Process | Place::Nowhere => String::new(),
        Place::Program => format!("`program.{}`", figure.key),
        Place::Machine => format!("`machines[].{}`", figure.key),
        Place::Totals => format!("`totals.{}`", figure.key),
        Place::Storage => format!("`storage[].{}`", figure.key),
        Place::Both => format!("`machines[].{0}`, `totals.{0}`", figure.key),
    }
}

fn metric(figure: &Figure) -> String {
    match figure.label.split_once('=') {
        Some((label, value)) => format!("`{}{{{label}=\"{value}\"}}`", figure.metric),
        None => code(figure.metric),
    }
}
