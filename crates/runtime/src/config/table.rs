//! What a key of the configuration is, and how a JSON value gets through one into its field.
//! The tables made of these are in `keys.rs`; this file knows no particular key.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::{ConfigError, Owner, Warning, cut};
use super::expand::{Expansion, unknown_name};
use super::nearest::nearest;
use super::settings::UNLIMITED;

const MIB: u64 = 1 << 20;

/// One key of an object that configures a `T`.
pub(super) struct Key<T: 'static> {
    pub(super) name: &'static str,
    pub(super) aliases: &'static [&'static str],
    pub(super) kind: Kind<T>,
    pub(super) status: Status,
    pub(super) meaning: &'static str,
    /// What else follows from a new value.
    pub(super) then: Option<fn(&mut T)>,
}

/// Which values a key takes, and the field they go to.
pub(super) enum Kind<T: 'static> {
    Flag(fn(&mut T) -> &mut bool),
    Seconds {
        from: Duration,
        to: Duration,
        field: fn(&mut T) -> &mut Duration,
    },
    /// Of memory; the field is in bytes.
    Mib {
        from: u64,
        to: u64,
        multiple: u64,
        field: fn(&mut T) -> &mut u64,
    },
    Number {
        from: u32,
        to: u32,
        beyond: Beyond,
        field: fn(&mut T) -> &mut u32,
    },
    Text {
        expanded: bool,
        field: fn(&mut T) -> &mut String,
    },
    /// Expanded; empty is none.
    Path(fn(&mut T) -> &mut Option<PathBuf>),
    /// Expanded. A later layer adds to an earlier one or replaces it.
    Texts {
        adds: bool,
        field: fn(&mut T) -> &mut Vec<Vec<u8>>,
    },
    Special {
        expects: &'static str,
        default: &'static str,
        adds: bool,
        read: Read<T>,
    },
}

pub(super) type Read<T> = fn(&Value, &mut T, &mut Reading<'_>) -> Result<(), ConfigError>;

/// What becomes of a number above the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Beyond {
    Refused,
    Clamped,
}

/// What setting a key changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Works,
    /// Nothing, for this reason; a value that is not the default is worth a warning.
    Idle(&'static str),
    /// Nothing that a program could notice: it is always like this.
    Always(&'static str),
    /// Nothing, for this reason, whatever the value is.
    Never(&'static str),
}

impl<T> Key<T> {
    pub(super) const fn new(name: &'static str, kind: Kind<T>, meaning: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            kind,
            status: Status::Works,
            meaning,
            then: None,
        }
    }

    pub(super) const fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    pub(super) const fn never(self, why: &'static str) -> Self {
        Self {
            status: Status::Never(why),
            ..self
        }
    }

    pub(super) const fn idle(self, why: &'static str) -> Self {
        Self {
            status: Status::Idle(why),
            ..self
        }
    }

    pub(super) const fn always(self, how: &'static str) -> Self {
        Self {
            status: Status::Always(how),
            ..self
        }
    }

    pub(super) const fn then(self, then: fn(&mut T)) -> Self {
        Self {
            then: Some(then),
            ..self
        }
    }
}

/// Finds a key by its name or by another spelling of it.
pub(super) fn find<T>(table: &'static [Key<T>], name: &str) -> Option<&'static Key<T>> {
    table
        .iter()
        .find(|key| key.name == name || key.aliases.contains(&name))
}

/// All spellings in a table.
pub(super) fn spellings<T>(table: &'static [Key<T>]) -> impl Iterator<Item = &'static str> {
    table
        .iter()
        .flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()))
}

/// The keys of an object in the order they are processed.
pub(super) fn sorted(object: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_unstable_by_key(|&(name, _)| name);
    entries
}

/// The reading of one entry: whose it is, at which key, and what was noticed so far.
pub(super) struct Reading<'a> {
    pub(super) owner: Owner,
    pub(super) expansion: &'a Expansion,
    pub(super) strict: bool,
    pub(super) notes: &'a mut Notes,
    /// The key being read, with those around it.
    place: String,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        owner: Owner,
        expansion: &'a Expansion,
        strict: bool,
        notes: &'a mut Notes,
    ) -> Self {
        Self {
            owner,
            expansion,
            strict,
            notes,
            place: String::new(),
        }
    }

    /// Gives `value` to the field that `key`, spelt `name`, stands for.
    pub(super) fn key<T: Default + PartialEq>(
        &mut self,
        key: &'static Key<T>,
        name: &str,
        value: &Value,
        target: &mut T,
    ) -> Result<(), ConfigError> {
        self.within(name, |reading| {
            reading.value(key, value, target)?;
            match key.status {
                Status::Works | Status::Always(_) => {}
                Status::Idle(why) => {
                    let mut probe = T::default();
                    reading.value(key, value, &mut probe)?;
                    if probe != T::default() {
                        let (owner, key) = (reading.owner.clone(), reading.place.clone());
                        reading.notes.add(Warning::NoEffect { owner, key, why });
                    }
                }
                Status::Never(why) => {
                    let (owner, key) = (reading.owner.clone(), reading.place.clone());
                    reading.notes.add(Warning::NoEffect { owner, key, why });
                }
            }
            Ok(())
        })
    }

    fn value<T>(
        &mut self,
        key: &'static Key<T>,
        value: &Value,
        target: &mut T,
    ) -> Result<(), ConfigError> {
        key.kind.read(value, target, self)?;
        if let Some(then) = key.then {
            then(target);
        }
        Ok(())
    }

    /// An object inside a value: all its keys are in `table`.
    pub(super) fn object<T: Default + PartialEq>(
        &mut self,
        table: &'static [Key<T>],
        object: &Map<String, Value>,
        target: &mut T,
    ) -> Result<(), ConfigError> {
        for (name, value) in sorted(object) {
            match find(table, name) {
                Some(key) => self.key(key, name, value, target)?,
                None => self.unknown(name, nearest(name, spellings(table)))?,
            }
        }
        Ok(())
    }

    /// A key that no table has.
    pub(super) fn unknown(
        &mut self,
        name: &str,
        nearest: Option<&'static str>,
    ) -> Result<(), ConfigError> {
        let owner = self.owner.clone();
        let key = self.within(cut(name), |reading| reading.place.clone());
        let warning = Warning::UnknownKey {
            owner,
            key,
            nearest,
        };
        if self.strict {
            return Err(ConfigError::UnknownKey(warning));
        }
        self.notes.add(warning);
        Ok(())
    }

    /// Does something while `name` is part of the place that errors tell.
    pub(super) fn within<R>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> R) -> R {
        let outer = self.place.len();
        if outer > 0 && !name.starts_with('[') {
            self.place.push('.');
        }
        self.place.push_str(name);
        let result = work(self);
        self.place.truncate(outer);
        result
    }

    /// The error for a value that does not fit.
    pub(super) fn unfit(&self, expected: impl Into<String>, got: &Value) -> ConfigError {
        self.unfit_text(expected, describe(got))
    }

    pub(super) fn unfit_text(&self, expected: impl Into<String>, got: String) -> ConfigError {
        ConfigError::Setting {
            owner: self.owner.clone(),
            key: self.place.clone(),
            expected: expected.into(),
            got,
        }
    }

    /// A string that can be handed to a C interface.
    pub(super) fn text(&mut self, value: &Value, expanded: bool) -> Result<String, ConfigError> {
        let Value::String(text) = value else {
            return Err(self.unfit("a string", value));
        };
        if text.contains('\0') {
            return Err(self.unfit("a string without a zero byte", value));
        }
        if !expanded {
            return Ok(text.clone());
        }
        let expanded = self.expansion.expand(text).map_err(|name| {
            self.unfit(
                format!("a string without {name}, which has no value here"),
                value,
            )
        })?;
        if let Some(name) = unknown_name(text) {
            let (owner, key) = (self.owner.clone(), self.place.clone());
            let name = cut(name).to_owned();
            self.notes.add(Warning::NotReplaced { owner, key, name });
        }
        Ok(expanded)
    }

    /// A path of the host is not the same everywhere if it is relative.
    pub(super) fn note_path(&mut self, path: &str) {
        if path.is_empty() || path.starts_with('/') {
            return;
        }
        self.notes.add(Warning::Relative {
            owner: self.owner.clone(),
            key: self.place.clone(),
            path: cut(path).to_owned(),
            from: self.expansion.pwd.clone(),
        });
    }

    pub(super) fn texts(
        &mut self,
        value: &Value,
        expects: &str,
    ) -> Result<Vec<String>, ConfigError> {
        let mut texts = Vec::new();
        self.each(value, expects, |reading, value| {
            texts.push(reading.text(value, true)?);
            Ok(())
        })?;
        Ok(texts)
    }

    /// Does something with each element of a list; errors tell which one it was.
    pub(super) fn each(
        &mut self,
        value: &Value,
        expects: &str,
        mut work: impl FnMut(&mut Self, &Value) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let Value::Array(list) = value else {
            return Err(self.unfit(expects, value));
        };
        for (index, value) in list.iter().enumerate() {
            self.element(index, |reading| work(reading, value))?;
        }
        Ok(())
    }

    /// As `within`, for an element of a list.
    pub(super) fn element<R>(&mut self, index: usize, work: impl FnOnce(&mut Self) -> R) -> R {
        self.within(&format!("[{index}]"), work)
    }
}

impl<T> Kind<T> {
    /// The values it takes, for errors and for the documentation.
    pub(super) fn expects(&self) -> String {
        match self {
            Self::Flag(_) => "true or false".into(),
            Self::Seconds { from, to, .. } => {
                format!(
                    "a number of seconds from {} to {}",
                    from.as_secs_f64(),
                    to.as_secs_f64()
                )
            }
            Self::Mib {
                from,
                to,
                multiple: 1,
                ..
            } => {
                format!("a number of MiB from {from} to {to}")
            }
            Self::Mib {
                from, to, multiple, ..
            } => {
                format!("a number of MiB from {from} to {to} that is a multiple of {multiple}")
            }
            Self::Number { from, to, .. } => format!("a number from {from} to {to}"),
            Self::Text { .. } | Self::Path(_) => "a string".into(),
            Self::Texts { .. } => "a list of strings".into(),
            Self::Special { expects, .. } => (*expects).into(),
        }
    }

    fn read(
        &self,
        value: &Value,
        target: &mut T,
        reading: &mut Reading<'_>,
    ) -> Result<(), ConfigError> {
        let unfit = || reading.unfit(self.expects(), value);
        match *self {
            Self::Flag(field) => *field(target) = value.as_bool().ok_or_else(unfit)?,
            Self::Seconds { from, to, field } => {
                *field(target) = value
                    .as_f64()
                    .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                    .filter(|time| (from..=to).contains(time))
                    .ok_or_else(unfit)?;
            }
            Self::Mib {
                from,
                to,
                multiple,
                field,
            } => {
                *field(target) = whole(value)
                    .filter(|mib| (from..=to).contains(mib) && mib.is_multiple_of(multiple))
                    .and_then(|mib| mib.checked_mul(MIB))
                    .ok_or_else(unfit)?;
            }
            Self::Number {
                from,
                to,
                beyond,
                field,
            } => {
                let got = whole(value)
                    .filter(|&got| got >= u64::from(from))
                    .ok_or_else(unfit)?;
                *field(target) = match u32::try_from(got) {
                    Ok(got) if got <= to => got,
                    _ if beyond == Beyond::Refused => return Err(unfit()),
                    _ => {
                        let (owner, key) = (reading.owner.clone(), reading.place.clone());
                        let limit = u64::from(to);
                        reading.notes.add(Warning::Clamped {
                            owner,
                            key,
                            got,
                            limit,
                        });
                        to
                    }
                };
            }
            Self::Text { expanded, field } => *field(target) = reading.text(value, expanded)?,
            Self::Path(field) => {
                let text = reading.text(value, true)?;
                reading.note_path(&text);
                *field(target) = (!text.is_empty()).then(|| text.into());
            }
            Self::Texts { adds, field } => {
                let texts = reading.texts(value, &self.expects())?;
                let field = field(target);
                if !adds {
                    field.clear();
                }
                field.extend(texts.into_iter().map(String::into_bytes));
            }
            Self::Special { read, .. } => read(value, target, reading)?,
        }
        Ok(())
    }

    /// The value without any configuration, for the documentation.
    pub(super) fn default_text(&self) -> String
    where
        T: Default,
    {
        let mut target = T::default();
        match *self {
            Self::Flag(field) => field(&mut target).to_string(),
            Self::Seconds { field, .. } => field(&mut target).as_secs_f64().to_string(),
            Self::Mib { field, .. } => match *field(&mut target) {
                UNLIMITED => "unlimited".into(),
                bytes => (bytes / MIB).to_string(),
            },
            Self::Number { field, .. } => field(&mut target).to_string(),
            Self::Text { field, .. } => match field(&mut target).as_str() {
                "" => "none".into(),
                text => format!("{text:?}"),
            },
            Self::Path(_) | Self::Texts { .. } => "none".into(),
            Self::Special { default, .. } => default.into(),
        }
    }

    /// Whether a later layer adds to an earlier one.
    pub(super) fn adds(&self) -> bool {
        matches!(
            self,
            Self::Texts { adds: true, .. } | Self::Special { adds: true, .. }
        )
    }
}

/// A number without fraction, however it is written.
pub(super) fn whole(value: &Value) -> Option<u64> {
    let number = value.as_number()?;
    number.as_u64().or_else(|| {
        // Beyond 2^53 a float is no exact number any more.
        let float = number
            .as_f64()
            .filter(|f| (0.0..9e15).contains(f) && f.fract() == 0.0)?;
        format!("{float:.0}").parse().ok()
    })
}

/// A value as errors show it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => cut(&number.to_string()).into(),
        Value::String(text) => format!("{:?}", cut(text)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// What was noticed; bounded, whatever a fetched document contains.
#[derive(Debug, Default)]
pub(super) struct Notes {
    kept: Vec<Warning>,
    dropped: usize,
}

impl Notes {
    const MOST: usize = 100;

    pub(super) fn add(&mut self, warning: Warning) {
        if self.kept.contains(&warning) {
            return;
        }
        if self.kept.len() < Self::MOST {
            self.kept.push(warning);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn into_warnings(mut self) -> Vec<Warning> {
        if self.dropped > 0 {
            self.kept.push(Warning::More(self.dropped));
        }
        self.kept
    }
}
