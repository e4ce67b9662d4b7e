//! The programs that one VCL sees, by name: what it defines, what it starts, what it asks about.
//!
//! ```text
//! library, configure --> definitions --warm, start, first use--> program of the registry
//!                                    <------- cool, drop --------
//! ```
//!
//! Guards: a name means one program; a VCL that is cold or gone holds none.
//! `library` may block, within the budget of the VCL's load, and it, `configure`, `invalidate` and
//! `stats` need a stack of ordinary size: they are called on threads of ours.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;
use regex::Regex;
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use crate::budget::Budget;
use crate::config::{
    ConfigError, Document, Expansion, Groups, ProgramConfig, Warning, apply, define,
};
use crate::figures;
use crate::loader;
use crate::outgoing::{SelfRequests, SelfRequestsError};
use crate::program::{Phase, Program};
use crate::recipe::Threads;
use crate::registry::Registry;
use crate::source::{self, Configured};
use crate::statistics::PROCESS;

static REGISTRY: LazyLock<Registry<Program>> = LazyLock::new(Registry::new);

/// One VCL's programs.
#[derive(Debug, Default)]
pub struct Vcl {
    table: Arc<RwLock<Table>>,
    /// Not of the table, which may be locked for long: every request asks.
    home: RwLock<Arc<SelfRequests>>,
    budget: Budget,
}

#[derive(Debug, Default)]
struct Table {
    groups: Groups,
    entries: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Debug)]
struct Entry {
    config: ProgramConfig,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    program: Arc<Program>,
    /// The definition has changed since: the next load makes another program.
    outdated: bool,
}

impl Vcl {
    pub fn new() -> Self {
        Self::default()
    }

    /// Says where this Varnish is for programs that ask it, and how many of them may at once.
    pub fn init_self_requests(
        &self,
        unix_socket: &str,
        http_prefix: &str,
        max_concurrent_requests: i64,
    ) -> Result<(), SelfRequestsError> {
        let home = SelfRequests::new(unix_socket, http_prefix, max_concurrent_requests)?;
        *self.home.write() = Arc::new(home);
        Ok(())
    }

    /// The self-requests that this VCL's requests cause.
    pub fn self_requests(&self) -> Arc<SelfRequests> {
        Arc::clone(&self.home.read())
    }

    /// Fetches a document and takes in what it defines. Blocks as long as the fetch may take, and
    /// the budget lasts.
    pub fn library(&self, uri: &str) -> Result<Vec<Warning>, ConfigError> {
        let text = self.text_of(uri)?;
        self.define(&text, &loader::shown(uri))
    }

    /// Takes in what a document defines: all of it or, with an error, nothing.
    pub fn define(&self, text: &str, origin: &str) -> Result<Vec<Warning>, ConfigError> {
        let mut table = self.table.write();
        let document =
            Document::parse_after(text, origin, &table.groups, &Expansion::of_process())?;
        let known = |config: &&ProgramConfig| table.entries.contains_key(config.name.as_bytes());
        if let Some(twice) = document.programs.iter().find(known) {
            return Err(ConfigError::Duplicate {
                program: twice.name.clone(),
            });
        }
        table.groups = document.groups;
        for config in document.programs {
            table.add(config);
        }
        Ok(document.warnings)
    }

    /// Changes the settings of a program, or defines it. A program that has been started with the
    /// old settings is given up for one with the new ones.
    pub fn configure(&self, program: &str, json: &str) -> Result<Vec<Warning>, ConfigError> {
        let mut table = self.table.write();
        let Table { groups, entries } = &mut *table;
        let Some(entry) = entries.get_mut(program.as_bytes()) else {
            let (config, warnings) = define(program, json, groups, &Expansion::of_process())?;
            table.add(config);
            return Ok(warnings);
        };
        let mut config = entry.config.clone();
        let warnings = apply(&mut config, json, &Expansion::of_process())?;
        if config != entry.config {
            entry.config = config;
            if let Some(old) = entry.held.take()
                && old.program.phase() != Phase::Unloaded
            {
                entry.obtain().start();
            }
        }
        Ok(warnings)
    }

    /// Replaces the arguments of the program's `main()`, from its next load on.
    pub fn main_arguments(
        &self,
        program: &str,
        arguments: Vec<Vec<u8>>,
    ) -> Result<(), ConfigError> {
        let mut table = self.table.write();
        let entry = table.entry(program)?;
        if entry.config.settings.main_arguments != arguments {
            entry.config.settings.main_arguments = arguments;
            entry.change();
        }
        Ok(())
    }

    /// The program of that name. That there is none is counted: it is a mistake in VCL.
    pub fn program(&self, name: &[u8]) -> Option<Arc<Program>> {
        let found = self.find(name);
        if found.is_none() {
            PROCESS.program_notfound.add(1);
        }
        found
    }

    fn find(&self, name: &[u8]) -> Option<Arc<Program>> {
        if let Some(held) = self.table.read().entries.get(name)?.held.as_ref() {
            return Some(Arc::clone(&held.program));
        }
        Some(self.table.write().entries.get_mut(name)?.obtain())
    }

    /// Begins to load a program and does not wait for it.
    pub fn start(&self, program: &str) -> Result<(), ConfigError> {
        self.table.write().entry(program)?.obtain().start();
        Ok(())
    }

    /// The VCL is going to be used: starts the programs that want to be started with it, and holds
    /// all others, loaded or not. So whichever VCL loads a program first, it outlives that VCL as
    /// long as another one that defines it is warm.
    pub fn warm(&self) {
        for entry in self.table.write().entries.values_mut() {
            let program = entry.obtain();
            if entry.config.start {
                program.start();
            }
        }
    }

    /// The VCL is not used for now: gives up its programs, which end unless others use them.
    pub fn cool(&self) {
        let held: Vec<Held> = {
            let mut table = self.table.write();
            table
                .entries
                .values_mut()
                .filter_map(|entry| entry.held.take())
                .collect()
        };
        // Ending a program takes its time; nobody else has to wait for it.
        drop(held);
    }

    /// Unloads the programs whose names match anywhere, so that their next use loads them anew.
    /// Running requests finish on what they run on. Answers how many match, loaded or not.
    pub fn invalidate(&self, pattern: &str) -> Result<usize, regex::Error> {
        let pattern = Regex::new(pattern)?;
        let mut matching = 0;
        let mut given_up = Vec::new();
        let mut unload = Vec::new();
        let mut reload = Vec::new();
        for entry in self.table.write().entries.values_mut() {
            if !pattern.is_match(&entry.config.name) {
                continue;
            }
            matching += 1;
            match entry.held.take_if(|held| held.outdated) {
                Some(old) if old.program.keeps_state() => {
                    entry.held = Some(old);
                    reload.push(entry.config.name.clone());
                }
                Some(old) => given_up.push(old),
                // Another VCL may hold the program while this one has not used it.
                None => unload.push(entry.obtain()),
            }
        }
        drop(given_up);
        for program in unload {
            program.unload();
        }
        for program in reload {
            if let Some(updatable) = self.updatable(program.as_bytes()) {
                updatable.reload();
            }
        }
        Ok(matching)
    }

    /// What the loaded programs whose names match anywhere have done, as a JSON text; `null` if
    /// there is none. A negative `indentation` means no line breaks.
    pub fn stats(&self, pattern: &str, indentation: i64) -> Result<String, regex::Error> {
        let pattern = Regex::new(pattern)?;
        let programs: Vec<Arc<Program>> = self
            .table
            .read()
            .entries
            .values()
            .filter(|entry| pattern.is_match(&entry.config.name))
            .filter_map(|entry| entry.held.as_ref())
            .map(|held| Arc::clone(&held.program))
            .collect();
        let all: Map<String, Value> = programs
            .iter()
            .filter_map(|program| Some((program.name().to_owned(), program.statistics()?)))
            .collect();
        Ok(if all.is_empty() {
            "null".to_owned()
        } else {
            text(&all, indentation)
        })
    }

    /// The figures of the process, and of all its programs whose names match anywhere, in the text
    /// format of Prometheus. Unlike `stats` it knows the programs of other VCLs too: it is one
    /// process that is scraped, whichever VCL answers.
    pub fn metrics(&self, pattern: &str) -> Result<String, regex::Error> {
        Ok(figures::text(&Regex::new(pattern)?))
    }

    /// Names of the programs, in order.
    pub fn names(&self) -> Vec<String> {
        self.table
            .read()
            .entries
            .values()
            .map(|entry| entry.config.name.clone())
            .collect()
    }
}

impl Table {
    fn add(&mut self, config: ProgramConfig) {
        let name = config.name.clone().into_bytes();
        self.entries.insert(name, Entry { config, held: None });
    }

    fn entry(&mut self, program: &str) -> Result<&mut Entry, ConfigError> {
        self.entries
            .get_mut(program.as_bytes())
            .ok_or_else(|| ConfigError::UnknownProgram {
                program: program.to_owned(),
            })
    }
}

impl Entry {
    fn obtain(&mut self) -> Arc<Program> {
        let config = &self.config;
        let make = |config: &ProgramConfig| {
            let source = Box::new(Configured(config.clone()));
            let patience = source::patience(&config.settings);
            Program::with(&config.name, source, Threads::default(), patience)
        };
        let held = self.held.get_or_insert_with(|| Held {
            program: REGISTRY.obtain(config, make),
            outdated: false,
        });
        Arc::clone(&held.program)
    }

    /// A program that is not loaded is exchanged at once, a loaded one when it is invalidated.
    fn change(&mut self) {
        if let Some(held) = &mut self.held {
            held.outdated = true;
        }
        self.held
            .take_if(|held| held.program.phase() == Phase::Unloaded);
    }
}

fn text(all: &Map<String, Value>, indentation: i64) -> String {
    let Ok(width @ 0..) = usize::try_from(indentation.min(16)) else {
        return Value::Object(all.clone()).to_string();
    };
    let blanks = [b' '; 16];
    let indent = blanks.get(..width).unwrap_or(&blanks);
    let mut out = Vec::new();
    let formatter = PrettyFormatter::with_indent(indent);
    match all.serialize(&mut Serializer::with_formatter(&mut out, formatter)) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        // Writing to memory does not fail.
        Err(_) => String::new(),
    }
}

mod init;
mod live;
#[cfg(test)]
mod tests;

pub use init::AwaitError;
pub use live::{Denied, Updatable};
