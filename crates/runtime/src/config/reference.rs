//! The tables of `keys.rs` as text for people: the generated part of `docs/configuration.md`.

use std::fmt::Write as _;

use super::keys;
use super::table::{Key, Status};

/// One Markdown table for each kind of object, with a heading.
pub fn reference() -> String {
    let mut out = String::new();
    table(&mut out, "Keys that define a program", keys::PROGRAM);
    table(
        &mut out,
        "Settings of groups, programs and `configure()`",
        keys::SETTINGS,
    );
    table(
        &mut out,
        "Keys of an object in `allowed_paths`",
        keys::PATH_RULE,
    );
    table(&mut out, "Keys of an object in `download`", keys::DOWNLOAD);
    table(
        &mut out,
        "Keys of `server` and `websocket_server`",
        keys::SERVER,
    );
    table(&mut out, "Keys of `warmup`", keys::WARMUP);
    out
}

fn table<T: Default>(out: &mut String, heading: &str, keys: &[Key<T>]) {
    out.push_str("### ");
    out.push_str(heading);
    out.push_str("\n\n| Key | Value | Default | A later layer | Effect | Meaning |\n");
    out.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for key in keys {
        let mut names = format!("`{}`", key.name);
        for alias in key.aliases {
            names.push_str(", `");
            names.push_str(alias);
            names.push('`');
        }
        let layer = if key.kind.adds() { "adds" } else { "replaces" };
        let effect = match key.status {
            Status::Works => "yes".to_owned(),
            Status::Always(how) => format!("always: {how}"),
            Status::Idle(why) | Status::Never(why) => format!("none: {why}"),
        };
        // Writing to a String cannot fail.
        let _always_ok = writeln!(
            out,
            "| {names} | {} | {} | {layer} | {effect} | {} |",
            key.kind.expects(),
            key.kind.default_text(),
            key.meaning
        );
    }
    out.push('\n');
}
