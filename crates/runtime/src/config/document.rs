//! A document: groups and programs by name, or the object that `configure()` gets.
//!
//! Groups are settings that programs start from. Entries and their keys are processed in the order
//! of their names, groups before programs. A document is taken whole or not at all.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::error::{ConfigError, Owner, Warning, cut};
use super::expand::Expansion;
use super::keys;
use super::nearest::nearest;
use super::program::ProgramConfig;
use super::settings::Settings;
use super::strip::strip_comments;
use super::table::{Notes, Reading, describe, find, sorted, spellings};

type Object = Map<String, Value>;

const BUILT_IN_GROUP: &str = "test";
const LONGEST_NAME: usize = 255;

/// Settings by group name. There is always one named `test`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups(BTreeMap<String, Settings>);

impl Default for Groups {
    fn default() -> Self {
        Self(BTreeMap::from([(
            BUILT_IN_GROUP.into(),
            Settings::default(),
        )]))
    }
}

impl Groups {
    pub fn get(&self, name: &str) -> Option<&Settings> {
        self.0.get(name)
    }

    fn names(&self) -> String {
        let names: Vec<String> = self
            .0
            .keys()
            .map(|name| format!("{:?}", cut(name)))
            .collect();
        names.get(..20).unwrap_or(&names).join(", ")
    }
}

/// What a text defines.
#[derive(Debug)]
pub struct Document {
    /// Those of before and those of the text.
    pub groups: Groups,
    /// By name.
    pub programs: Vec<ProgramConfig>,
    pub warnings: Vec<Warning>,
}

impl Document {
    /// Reads a text that stands alone. `origin` says where it comes from, for errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Self::parse_after(text, origin, &Groups::default(), &Expansion::of_process())
    }

    /// Reads a text whose programs may use groups that earlier ones defined.
    pub fn parse_after(
        text: &str,
        origin: &str,
        groups: &Groups,
        expansion: &Expansion,
    ) -> Result<Self, ConfigError> {
        let entries = match json(text, origin)? {
            Value::Object(entries) => entries,
            other => {
                let (origin, got) = (origin.into(), describe(&other));
                return Err(ConfigError::NoEntries { origin, got });
            }
        };
        // An entry may be called "strict", too: that one is an object.
        let strict = matches!(entries.get("strict"), Some(Value::Bool(true)));
        let is_flag = |name: &str, value: &Value| name == "strict" && value.is_boolean();
        let mut groups = groups.clone();
        let mut notes = Notes::default();
        let mut defined = Vec::new();
        for (name, value) in sorted(&entries) {
            if is_flag(name, value) {
                continue;
            }
            let owner = || Owner::Group(name.clone());
            let Value::Object(object) = value else {
                return Err(ConfigError::NoSettings {
                    owner: owner(),
                    got: describe(value),
                });
            };
            if is_program(object) {
                defined.push((name, object));
                continue;
            }
            check_name(name, owner)?;
            let settings = groups.0.entry(name.clone()).or_default();
            layer(
                settings,
                object,
                Reading::new(owner(), expansion, strict, &mut notes),
            )?;
        }
        let mut programs = Vec::with_capacity(defined.len());
        for (name, object) in defined {
            programs.push(program(
                name, object, &groups, expansion, strict, &mut notes,
            )?);
        }
        Ok(Self {
            groups,
            programs,
            warnings: notes.into_warnings(),
        })
    }
}

/// A program that `configure()` defines, because no document did.
pub fn define(
    name: &str,
    text: &str,
    groups: &Groups,
    expansion: &Expansion,
) -> Result<(ProgramConfig, Vec<Warning>), ConfigError> {
    let object = object_of(name, text)?;
    if !is_program(&object) {
        let misspelt = object
            .keys()
            .filter(|key| find(keys::SETTINGS, key).is_none())
            .find_map(|key| {
                let places = DEFINING.iter().copied();
                Some((cut(key).into(), nearest(key, places)?))
            });
        return Err(ConfigError::NotDefined {
            program: cut(name).into(),
            misspelt,
        });
    }
    let mut notes = Notes::default();
    let config = program(name, &object, groups, expansion, false, &mut notes)?;
    Ok((config, notes.into_warnings()))
}

/// One more layer of settings for a program, from `configure()`. An error changes nothing.
pub fn apply(
    config: &mut ProgramConfig,
    text: &str,
    expansion: &Expansion,
) -> Result<Vec<Warning>, ConfigError> {
    let object = object_of(&config.name, text)?;
    let mut settings = config.settings.clone();
    let mut notes = Notes::default();
    let owner = Owner::Program(config.name.clone());
    let strict = settings.strict;
    layer(
        &mut settings,
        &object,
        Reading::new(owner, expansion, strict, &mut notes),
    )?;
    config.settings = settings;
    Ok(notes.into_warnings())
}

fn object_of(name: &str, text: &str) -> Result<Object, ConfigError> {
    match json(text, &format!("configuration of program {:?}", cut(name)))? {
        Value::Object(object) => Ok(object),
        other => {
            let owner = Owner::Program(name.into());
            Err(ConfigError::NoSettings {
                owner,
                got: describe(&other),
            })
        }
    }
}

fn json(text: &str, origin: &str) -> Result<Value, ConfigError> {
    let origin = || cut(origin).to_owned();
    let bare = strip_comments(text).map_err(|comment| ConfigError::Syntax {
        origin: origin(),
        line: comment.line,
        column: 0,
        reason: "a comment that begins here has no end".into(),
    })?;
    serde_json::from_str(&bare).map_err(|error| {
        let text = error.to_string();
        let (reason, _) = text.rsplit_once(" at line ").unwrap_or((&text, ""));
        let (line, column) = (error.line(), error.column());
        ConfigError::Syntax {
            origin: origin(),
            line,
            column,
            reason: cut(reason).into(),
        }
    })
}

/// The keys of which a program has one at least.
const DEFINING: [&str; 3] = ["group", "filename", "uri"];

fn is_program(object: &Object) -> bool {
    DEFINING.iter().any(|key| object.contains_key(*key))
}

fn check_name(name: &str, owner: impl FnOnce() -> Owner) -> Result<(), ConfigError> {
    let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(ConfigError::Name { owner: owner() })
    }
}

fn program(
    name: &str,
    object: &Object,
    groups: &Groups,
    expansion: &Expansion,
    strict: bool,
    notes: &mut Notes,
) -> Result<ProgramConfig, ConfigError> {
    let owner = || Owner::Program(name.into());
    check_name(name, owner)?;
    let mut reading = Reading::new(owner(), expansion, strict, notes);
    let mut config = ProgramConfig {
        name: name.into(),
        ..ProgramConfig::default()
    };
    let mut own = Object::new();
    for (key, value) in sorted(object) {
        match find(keys::PROGRAM, key) {
            Some(known) => reading.key(known, key, value, &mut config)?,
            None => drop(own.insert(key.clone(), value.clone())),
        }
    }
    if config.group.is_empty() {
        config.group = BUILT_IN_GROUP.into();
    }
    let group = groups
        .get(&config.group)
        .ok_or_else(|| ConfigError::UnknownGroup {
            program: cut(name).into(),
            group: cut(&config.group).into(),
            known: groups.names(),
        })?;
    config.settings.clone_from(group);
    layer(&mut config.settings, &own, reading)?;
    if config.filename.is_none() && config.uri.is_none() {
        return Err(ConfigError::Unreachable {
            program: cut(name).into(),
        });
    }
    Ok(config)
}

/// Puts an object's settings on top of what is there. `strict` counts before all other keys.
fn layer(
    settings: &mut Settings,
    object: &Object,
    mut reading: Reading<'_>,
) -> Result<(), ConfigError> {
    reading.strict = match object.get("strict") {
        Some(Value::Bool(strict)) => *strict,
        _ => reading.strict || settings.strict,
    };
    for (name, value) in sorted(object) {
        if let Some(key) = find(keys::SETTINGS, name) {
            reading.key(key, name, value, settings)?;
        } else if find(keys::PROGRAM, name).is_some() {
            let owner = reading.owner.clone();
            reading.notes.add(Warning::Fixed {
                owner,
                key: name.clone(),
            });
        } else {
            let known = spellings(keys::SETTINGS).chain(spellings(keys::PROGRAM));
            reading.unknown(name, nearest(name, known))?;
        }
    }
    Ok(())
}
