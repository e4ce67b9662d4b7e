//! Live updates as VCL asks for them: by name, with a key, from uploaded bytes or from a file.
//!
//! Guards: nothing of an update needs the VCL once it has begun: it may be discarded meanwhile.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use super::{Held, Table, Vcl};
use crate::budget::{self, Budget, Unanswered};
use crate::config::ProgramConfig;
use crate::instance::StartError;
use crate::loader::{self, archive};
use crate::program::Program;
use crate::reload::Succession;
use crate::update::{UpdateError, Updated};

/// A program in the hands of who wants to update it.
#[derive(Debug, Clone)]
pub struct Updatable {
    table: Arc<RwLock<Table>>,
    config: ProgramConfig,
    /// Of that configuration.
    program: Arc<Program>,
    /// What serves until the update, where the settings have changed since it was loaded.
    outdated: Option<Arc<Program>>,
}

/// Why nobody may update a program from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("there is no such program")]
    Unknown,
    #[error("the program has no \"key\"")]
    NoKey,
    #[error("that is not the program's key")]
    WrongKey,
}

impl Vcl {
    /// The program of that name, for who knows its key.
    pub fn updatable_with(&self, name: &[u8], key: &[u8]) -> Result<Updatable, Denied> {
        // Who only tries keys must not keep others from the table.
        {
            let table = self.table.read();
            let config = &table.entries.get(name).ok_or(Denied::Unknown)?.config;
            if config.key.is_empty() {
                return Err(Denied::NoKey);
            }
            if !config.key.matches(key) {
                return Err(Denied::WrongKey);
            }
        }
        self.updatable(name).ok_or(Denied::Unknown)
    }

    /// The program of that name, for who wants to update it.
    pub fn updatable(&self, name: &[u8]) -> Option<Updatable> {
        let mut table = self.table.write();
        let entry = table.entries.get_mut(name)?;
        let outdated = entry.held.take_if(|held| held.outdated);
        let program = entry.obtain();
        let updatable = Updatable {
            table: Arc::clone(&self.table),
            config: entry.config.clone(),
            program,
            outdated: outdated.as_ref().map(|held| Arc::clone(&held.program)),
        };
        if outdated.is_some() {
            // It goes on until the update has succeeded.
            entry.held = outdated;
        }
        Some(updatable)
    }
}

impl Updatable {
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// After this time an update has ended, or something is wrong: it has waited for its turn,
    /// fetched, started a storage, started, been warmed up in vain, started again, and moved its
    /// state, each as long as it may take.
    pub fn max_time(&self) -> Duration {
        let settings = &self.config.settings;
        let fetch = match settings.download.as_slice() {
            [] => Duration::ZERO,
            _ => Duration::from_secs(120),
        };
        let starts = settings.max_boot_time.saturating_mul(4);
        let state = match settings.storage {
            true => settings.max_storage_time.saturating_mul(12),
            false => Duration::ZERO,
        };
        [settings.max_queue_time, fetch, starts, state]
            .into_iter()
            .fold(Duration::from_secs(30), Duration::saturating_add)
    }

    /// Updates the program by what was uploaded: an ELF file or an archive. Blocks, and needs a
    /// stack of ordinary size.
    pub fn update(&self, upload: Vec<u8>) -> Result<Updated, UpdateError> {
        self.update_by(|| {
            if upload.is_empty() {
                return Err(UpdateError::Empty);
            }
            Ok(Cow::Owned(archive::open(upload)?))
        })
    }

    /// Updates the program by what is in a file: as `update`.
    pub fn update_from(&self, path: &Path) -> Result<Updated, UpdateError> {
        self.update_by(|| {
            let bytes = loader::read(path).map_err(|error| UpdateError::File(error.to_string()))?;
            if bytes.is_empty() {
                return Err(UpdateError::Empty);
            }
            Ok(Cow::Owned(archive::open(bytes)?))
        })
    }

    /// Has a thread of ours do an update and waits for it, but not longer than `most`. For callers
    /// with little stack.
    pub fn within(
        &self,
        most: Duration,
        update: impl FnOnce(&Self) -> Result<Updated, UpdateError> + Send + 'static,
    ) -> Result<Updated, UpdateError> {
        let own = self.clone();
        let work = move || {
            let result = update(&own);
            // Before the answer: who has it may count what is left.
            drop(own);
            result
        };
        budget::within(most, "tinykvm-update", work).unwrap_or_else(|end| {
            Err(match end {
                Unanswered::Late => UpdateError::StillUnderWay,
                Unanswered::Panicked => StartError::Panicked.into(),
                Unanswered::Thread(error) => UpdateError::Thread(error),
            })
        })
    }

    /// As `within`, for vcl_init: as long as the update may take, and the budget lasts.
    pub fn within_budget(
        &self,
        budget: &Budget,
        update: impl FnOnce(&Self) -> Result<Updated, UpdateError> + Send + 'static,
    ) -> Result<Updated, UpdateError> {
        let (most, left) = (self.max_time(), budget.left());
        if left >= most {
            return self.within(most, update);
        }
        let awaited = format!("the update of program {}", self.name());
        if left.is_zero() {
            return Err(budget.exceeded_by(awaited).into());
        }
        self.within(left, update).map_err(|error| match error {
            UpdateError::StillUnderWay => {
                let awaited = format!("{awaited}, which goes on");
                budget.exceeded_by(awaited).into()
            }
            error => error,
        })
    }

    fn update_by(
        &self,
        binaries: impl FnOnce() -> Result<Cow<'static, crate::Binaries>, UpdateError>,
    ) -> Result<Updated, UpdateError> {
        let predecessor = self.outdated.as_deref();
        let updated = self.program.update_by(predecessor, binaries)?;
        if let Some(outdated) = &self.outdated {
            drop(self.exchange(outdated));
        }
        Ok(updated)
    }

    /// Loads the program with its new settings, on a thread of its own; what serves until then hands
    /// its state over.
    pub(super) fn reload(self) {
        let program = Arc::clone(&self.program);
        let succession = self.outdated.clone().map(|outdated| Succession {
            predecessor: Arc::clone(&outdated),
            by: Arc::as_ptr(&self.table).addr(),
            take_place: Box::new(move || drop(self.exchange(&outdated))),
        });
        program.reload(succession);
    }

    /// Puts the program of the new settings in the place of the one that served until now.
    fn exchange(&self, outdated: &Arc<Program>) -> Option<Held> {
        let mut table = self.table.write();
        let entry = table.entries.get_mut(self.config.name.as_bytes())?;
        let serving = entry.held.as_ref()?;
        if !Arc::ptr_eq(&serving.program, outdated) {
            return None;
        }
        entry.held.replace(Held {
            program: Arc::clone(&self.program),
            outdated: entry.config != self.config,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::thread;
    use std::time::Instant;

    use super::*;
    use crate::recorded::Recorded;
    use crate::request_abi::Request;
    use crate::update::StateMoved;

    /// Two VCLs that define one program, which counts in its storage. Its file, its name and the
    /// test have one name.
    struct Two {
        vcls: [Vcl; 2],
        name: &'static str,
        file: PathBuf,
    }

    impl Two {
        fn new(name: &'static str, more: &str) -> Self {
            let id = std::process::id();
            let file = std::env::temp_dir().join(format!("tinykvm-{name}-{id}"));
            fs::copy(guests::compile("storage"), &file).unwrap();
            let path = file.display();
            let text = format!(r#"{{"{name}": {{"filename": "{path}", "storage": true{more}}}}}"#);
            let vcls = [Vcl::new(), Vcl::new()];
            for vcl in &vcls {
                vcl.define(&text, "test").unwrap();
            }
            Self { vcls, name, file }
        }

        /// What a request of that VCL runs on.
        fn program(&self, vcl: usize) -> Arc<Program> {
            self.vcls[vcl].program(self.name.as_bytes()).unwrap()
        }

        /// The same program in both, once it serves.
        fn serving(&self) -> Arc<Program> {
            let program = self.program(0);
            assert!(Arc::ptr_eq(&program, &self.program(1)));
            program.start();
            until("it starts", || program.current().is_some());
            program
        }

        fn change(&self, vcl: usize, argument: &str) {
            let arguments = vec![argument.into()];
            self.vcls[vcl].main_arguments(self.name, arguments).unwrap();
        }

        fn updatable(&self, vcl: usize) -> Updatable {
            self.vcls[vcl].updatable(self.name.as_bytes()).unwrap()
        }

        fn invalidate(&self, vcl: usize) {
            assert_eq!(self.vcls[vcl].invalidate(self.name).unwrap(), 1);
        }
    }

    impl Drop for Two {
        fn drop(&mut self) {
            fs::remove_file(&self.file).unwrap();
        }
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30) * guests::slowness();
        while !is_so() {
            assert!(Instant::now() < deadline, "{what} did not come true");
            thread::yield_now();
        }
    }

    fn ask(program: &Arc<Program>, url: &str) -> String {
        let mut reservation = program.reserve().unwrap();
        let request = Request {
            method: b"GET",
            url: url.as_bytes(),
            argument: b"",
            content_type: b"",
        };
        let mut exchange = Recorded::new("GET", &[]);
        let response = reservation.handle(&request, &mut exchange);
        assert_eq!(response.status, 200, "{url}: {}", exchange.log_text());
        let mut body = [0; 64];
        let len = reservation.pull(&mut body).unwrap();
        String::from_utf8_lossy(&body[..len]).into_owned()
    }

    #[test]
    fn every_vcl_that_asks_for_new_settings_gets_them_also_while_another_one_waits() {
        let two = Two::new("asked-by-two", "");
        let old = two.serving();
        assert_eq!(ask(&old, "/add?5"), "5");
        two.change(0, "new");
        two.change(1, "new");
        let new = two.updatable(0).program;
        let turn = new.turn(None, |turn| Some(turn.lock()));
        two.invalidate(0);
        two.invalidate(1);
        two.invalidate(1);
        drop(turn);
        for vcl in [0, 1] {
            until("the new one", || Arc::ptr_eq(&two.program(vcl), &new));
        }
        assert_eq!(ask(&new, "/add"), "6");
    }

    #[test]
    fn new_settings_start_from_what_another_vcls_update_has_left_meanwhile() {
        let two = Two::new("updated-meanwhile", "");
        let old = two.serving();
        assert_eq!(ask(&old, "/add?5"), "5");
        two.change(0, "new");
        let new = two.updatable(0).program;
        let turn = new.turn(None, |turn| Some(turn.lock()));
        two.invalidate(0);
        let updated = two.updatable(1).update_from(&two.file).unwrap();
        assert_eq!(updated.state, StateMoved::Bytes(8));
        assert_eq!(ask(&old, "/add"), "6");
        drop(turn);
        until("the new one", || Arc::ptr_eq(&two.program(0), &new));
        assert_eq!(ask(&new, "/add?0"), "6");
        assert!(Arc::ptr_eq(&two.program(1), &old));
    }

    #[test]
    fn who_takes_the_state_of_a_program_waits_for_its_updates_too() {
        let two = Two::new("waits-for-both", r#", "max_queue_time": 0.05"#);
        let old = two.serving();
        two.change(0, "new");
        let turn = old.turn(None, |turn| Some(turn.lock()));
        let error = two.updatable(0).update_from(&two.file).unwrap_err();
        assert!(matches!(error, UpdateError::Busy { .. }), "{error}");
        drop(turn);
        two.updatable(0).update_from(&two.file).unwrap();
        assert!(!Arc::ptr_eq(&two.program(0), &old));
    }

    #[test]
    fn settings_that_were_changed_back_are_no_reason_to_wait_for_oneself() {
        let two = Two::new("changed-back", r#", "max_queue_time": 0.05"#);
        two.change(0, "one");
        two.change(1, "one");
        let program = two.serving();
        two.change(0, "other");
        two.change(0, "one");
        let updated = two.updatable(0).update_from(&two.file).unwrap();
        assert_eq!(updated.state, StateMoved::Bytes(8));
        assert!(Arc::ptr_eq(&two.program(0), &program));
        assert_eq!(ask(&program, "/add?5"), "5");
        let instance = program.current().unwrap();
        two.change(0, "other");
        two.change(0, "one");
        two.invalidate(0);
        let is_old = || Arc::ptr_eq(&program.current().unwrap(), &instance);
        until("a new instance", || !is_old());
        assert_eq!(ask(&program, "/add"), "6");
    }

    #[test]
    fn two_that_take_each_others_state_do_not_wait_for_each_other() {
        let two = Two::new("each-others", "");
        two.change(0, "one");
        two.change(1, "other");
        let programs = [two.program(0), two.program(1)];
        for program in &programs {
            program.start();
            until("it starts", || program.current().is_some());
        }
        two.change(0, "other");
        two.change(1, "one");
        thread::scope(|scope| {
            for vcl in [0, 1] {
                let updatable = two.updatable(vcl);
                let file = &two.file;
                scope.spawn(move || updatable.update_from(file).unwrap());
            }
        });
        for (vcl, program) in programs.iter().rev().enumerate() {
            assert!(Arc::ptr_eq(&two.program(vcl), program));
        }
    }
}
