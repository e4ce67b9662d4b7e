//! A configuration as what programs are made from: each load of the program asks for its binary
//! anew and tells where it came from.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sandbox::gdb::{DEFAULT_PORT, Debugging};
use sandbox::{AllowedPath, GuestVirt, Region, Use};

use crate::config::{Access, PathRule, ProgramConfig, Remapping, Settings, Warmup};
use crate::exchange::Severity;
use crate::journal;
use crate::loader::{self, Had, Kept, Loaded, Origin};
use crate::recipe::{Patience, Recipe, Source, Voice, Warming};
use crate::update::Stored;

/// What the guest calls the file that its state is kept in.
const STATE: &str = "state";

/// A program's executables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// What requests run.
    pub request: Vec<u8>,
    /// What the storage VM runs, where it is another one.
    pub storage: Option<Vec<u8>>,
}

impl Binaries {
    /// The executable of the storage VM.
    pub fn for_storage(&self) -> &[u8] {
        self.storage.as_deref().unwrap_or(&self.request)
    }
}

impl From<Vec<u8>> for Binaries {
    fn from(request: Vec<u8>) -> Self {
        Self {
            request,
            storage: None,
        }
    }
}

/// A program as its configuration describes it.
#[derive(Debug)]
pub(crate) struct Configured(pub(crate) ProgramConfig);

impl Source for Configured {
    fn recipe(&self) -> Result<Recipe, String> {
        download(&self.0)?;
        Ok(recipe(&self.0))
    }

    fn binaries(&self) -> Result<Binaries, String> {
        let config = &self.0;
        let Loaded { binaries, from } =
            loader::program(config).map_err(|error| error.to_string())?;
        if let Some((severity, line)) = report(config, from) {
            journal::say(severity, &config.name, line.as_bytes());
        }
        Ok(binaries)
    }

    fn keep(&self, binaries: &Binaries) -> Stored {
        loader::keep(&self.0, binaries)
    }
}

/// Fetches the files that the program needs. One that has to have a certain hash decides whether the
/// program starts; what is missing otherwise is the program's affair.
fn download(config: &ProgramConfig) -> Result<(), String> {
    let list = &config.settings.download;
    let mut failed = None;
    for (item, had) in list.iter().zip(loader::downloads(list)) {
        let path = &item.filepath;
        let (severity, line) = match had {
            Had::Verified => continue,
            Had::Current => (Severity::Info, format!("download: {path} is still current")),
            Had::Fetched => (Severity::Info, format!("download: fetched {path}")),
            Had::Not { why, stale } => {
                let line = format!("download: {path}: {why}");
                if item.sha256.is_some() {
                    failed = failed.or(Some(line));
                    continue;
                }
                let then = if stale {
                    "using the file as it is"
                } else {
                    "going on without the file"
                };
                (Severity::Error, format!("{line}; {then}"))
            }
        };
        journal::say(severity, &config.name, line.as_bytes());
    }
    failed.map_or(Ok(()), Err)
}

/// What an operator should know about where the bytes came from.
fn report(config: &ProgramConfig, from: Origin) -> Option<(Severity, String)> {
    let filename = || {
        config
            .filename
            .as_deref()
            .unwrap_or(Path::new(""))
            .display()
    };
    match from {
        Origin::File => None,
        Origin::Unchanged => Some((Severity::Info, format!("{} is still current", filename()))),
        Origin::Fetched {
            len,
            kept: Kept::NotWanted,
        } => Some((Severity::Info, format!("fetched {len} bytes"))),
        Origin::Fetched {
            len,
            kept: Kept::Yes,
        } => Some((
            Severity::Info,
            format!("fetched {len} bytes, kept in {}", filename()),
        )),
        Origin::Fetched {
            len,
            kept: Kept::Failed(error),
        } => {
            let text = format!(
                "fetched {len} bytes, but cannot keep them in {}: {error}",
                filename()
            );
            Some((Severity::Error, text))
        }
        Origin::Fallback { why } => {
            let text = format!("{why}; using {} as it was kept before", filename());
            Some((Severity::Error, text))
        }
    }
}

fn recipe(config: &ProgramConfig) -> Recipe {
    let settings = &config.settings;
    let executable = match &config.filename {
        Some(path) => path.as_os_str().as_bytes().to_vec(),
        None => config.name.clone().into_bytes(),
    };
    Recipe {
        name: config.name.clone(),
        group: config.group.clone(),
        main_arguments: settings.main_arguments.clone(),
        environment: settings
            .environment
            .iter()
            .map(|text| text.clone().into_bytes())
            .collect(),
        executable,
        paths: paths(config),
        current_working_directory: settings.current_working_directory.clone().into_bytes(),
        allowed_fetch: settings.allowed_fetch.clone(),
        max_boot_time: settings.max_boot_time,
        max_request_time: settings.max_request_time,
        max_storage_time: settings.max_storage_time,
        max_memory: settings.max_memory,
        address_space: settings.address_space,
        max_request_memory: settings.max_request_memory,
        shared_memory: settings.shared_memory,
        regions: settings.remappings.iter().map(region).collect(),
        large_pages: settings.transparent_hugepages,
        keep_memory: if settings.ephemeral_keep_working_memory {
            settings.limit_workmem_after_req
        } else {
            0
        },
        executable_heap: settings.executable_heap,
        ephemeral: settings.ephemeral,
        control_ephemeral: settings.control_ephemeral,
        voice: Voice {
            stdout: settings.stdout,
            start: settings.verbose,
            system_calls: settings.verbose_syscalls,
            mappings: settings.verbose_pagetables,
        },
        debugging: Debugging {
            at_breakpoints: settings.allow_debug,
            at_faults: settings.remote_debug_on_exception,
            port: u16::try_from(settings.debug_port).unwrap_or(DEFAULT_PORT),
            ..Debugging::default()
        },
        storage: settings.storage,
        concurrency: usize::try_from(settings.concurrency).unwrap_or(1),
        max_waiting: usize::try_from(settings.max_queue_length).unwrap_or(usize::MAX),
        warmup: settings.warmup.as_ref().map(warming),
    }
}

/// As many requests as a program takes in once it serves may wait for that.
pub(crate) fn patience(settings: &Settings) -> Patience {
    let callers = settings
        .concurrency
        .saturating_add(settings.max_queue_length);
    Patience {
        time: settings.max_queue_time,
        callers: usize::try_from(callers).unwrap_or(usize::MAX),
    }
}

/// The configured paths, then the program itself, then its state.
fn paths(config: &ProgramConfig) -> Vec<AllowedPath> {
    let mut paths: Vec<AllowedPath> = config
        .settings
        .allowed_paths
        .iter()
        .map(allowed_path)
        .collect();
    if let Some(filename) = &config.filename {
        paths.push(AllowedPath {
            guest: filename.as_os_str().as_bytes().to_vec(),
            host: filename.clone(),
            ..AllowedPath::default()
        });
        let mut state = filename.clone().into_os_string();
        state.push(".state");
        paths.push(AllowedPath {
            guest: STATE.into(),
            host: state.into(),
            writable: true,
            ..AllowedPath::default()
        });
    }
    paths
}

fn region(remapping: &Remapping) -> Region {
    Region {
        address: GuestVirt::new(remapping.address),
        len: remapping.size,
        usage: match remapping.access {
            Access::ReadWrite => Use::Data,
            Access::ReadWriteExecute => Use::Code,
            Access::Nothing => Use::Nothing,
        },
    }
}

fn allowed_path(rule: &PathRule) -> AllowedPath {
    AllowedPath {
        guest: rule.virtual_path.clone().into_bytes(),
        host: PathBuf::from(&rule.real),
        prefix: rule.prefix,
        writable: rule.writable,
        symlink: rule.symlink,
    }
}

fn warming(warmup: &Warmup) -> Warming {
    Warming {
        requests: warmup.num_requests,
        exact: warmup.exact,
        method: warmup.method.clone().into_bytes(),
        url: warmup.url.clone().into_bytes(),
        headers: warmup
            .headers
            .iter()
            .map(|text| text.clone().into_bytes())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Document;

    #[test]
    fn a_recipe_says_what_the_configuration_says() {
        let text = r#"{"p": {"filename": "/x/p", "max_request_memory": 5000, "max_queue_length": 7,
            "allowed_paths": [{"real": "/r", "virtual": "/v", "prefix": true, "writable": true}],
            "warmup": {"num_requests": 3}, "environment": ["A=1"], "concurrency": 9}}"#;
        let config = Document::parse(text, "test").unwrap().programs.remove(0);
        let recipe = recipe(&config);
        assert_eq!((recipe.name.as_str(), recipe.group.as_str()), ("p", "test"));
        assert_eq!(recipe.executable, b"/x/p");
        assert_eq!(recipe.max_request_memory, 5000 << 20);
        assert_eq!((recipe.concurrency, recipe.max_waiting), (9, 7));
        assert_eq!(patience(&config.settings).callers, 16);
        assert_eq!(recipe.environment, [b"A=1"]);
        let path = |guest: &str, host: &str, prefix, writable| AllowedPath {
            guest: guest.into(),
            host: host.into(),
            prefix,
            writable,
            symlink: false,
        };
        assert_eq!(
            recipe.paths,
            [
                path("/v", "/r", true, true),
                path("/x/p", "/x/p", false, false),
                path("state", "/x/p.state", false, true),
            ]
        );
        let warming = recipe.warmup.unwrap();
        assert_eq!((warming.requests, warming.exact), (3, false));
        assert_eq!(warming.headers, [b"User-Agent: tinykvm"]);
    }

    #[test]
    fn a_recipe_has_the_defaults_of_the_settings() {
        let settings = Settings::default();
        let recipe = Recipe::new("x");
        assert_eq!(recipe.max_boot_time, settings.max_boot_time);
        assert_eq!(recipe.max_request_time, settings.max_request_time);
        assert_eq!(recipe.max_storage_time, settings.max_storage_time);
        assert_eq!(recipe.storage, settings.storage);
        assert_eq!(recipe.max_memory, settings.max_memory);
        assert_eq!(recipe.address_space, settings.address_space);
        assert_eq!(recipe.max_request_memory, settings.max_request_memory);
        assert_eq!(recipe.keep_memory, settings.limit_workmem_after_req);
        assert_eq!(
            u32::try_from(recipe.concurrency).unwrap(),
            settings.concurrency
        );
        assert_eq!(
            u32::try_from(recipe.max_waiting).unwrap(),
            settings.max_queue_length
        );
        assert_eq!(patience(&settings), Patience::default());
    }
}
