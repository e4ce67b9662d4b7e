//! Tests of the configuration, by what they look at.

mod documents;
mod fuzz;
mod shapes;
mod values;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const MIB: u64 = 1 << 20;

fn expansion() -> Expansion {
    Expansion {
        home: Some("/home/v".into()),
        pwd: Some("/work".into()),
    }
}

fn parse(text: &str) -> Result<Document, ConfigError> {
    Document::parse_after(text, "test.json", &Groups::default(), &expansion())
}

fn parse_value(value: &Value) -> Result<Document, ConfigError> {
    parse(&value.to_string())
}

/// The only program of a document.
fn one(text: &str) -> (ProgramConfig, Vec<Warning>) {
    let mut document = parse(text).unwrap();
    assert_eq!(document.programs.len(), 1);
    (document.programs.remove(0), document.warnings)
}

/// A program with one more key.
fn with(key: &str, value: Value) -> Result<ProgramConfig, ConfigError> {
    let mut entry = json!({"filename": "/f"});
    entry[key] = value;
    parse_value(&json!({"p": entry})).map(|mut document| document.programs.remove(0))
}

fn settings(key: &str, value: Value) -> Settings {
    with(key, value).unwrap().settings
}

fn error(key: &str, value: Value) -> String {
    with(key, value).unwrap_err().to_string()
}

fn texts(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}
