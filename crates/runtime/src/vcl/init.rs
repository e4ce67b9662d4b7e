//! The calls in vcl_init that wait: for the text of a library, for a program to start.
//!
//! Guards: none of them waits for longer than the budget of the VCL's load has left.

use std::sync::Arc;
use std::time::Duration;

use super::Vcl;
use crate::budget::{self, Budget, OutOfTime, Unanswered};
use crate::config::ConfigError;
use crate::exchange::{Deadline, Limit};
use crate::loader::{self, LoadError};
use crate::program::{Program, ReserveError};

/// What a local file gets in any case: it is what VCL falls back to.
const FILE: Duration = Duration::from_secs(1);

/// Why a program that vcl_init waits for does not serve.
#[derive(Debug, thiserror::Error)]
pub enum AwaitError {
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    #[error(transparent)]
    OutOfTime(#[from] OutOfTime),
}

impl Vcl {
    /// What is left for calls in vcl_init.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Waits until a program serves, for its patience or what is left of the budget.
    pub fn await_start(&self, program: &Arc<Program>) -> Result<(), AwaitError> {
        let deadline = Deadline {
            at: self.budget.until(),
            limit: Limit::VclInit,
        };
        match program.await_serving(Some(deadline)) {
            Err(ReserveError::StillLoading {
                limit: Limit::VclInit,
                ..
            }) => {
                let awaited = format!("program {} to start", program.name());
                Err(self.budget.exceeded_by(awaited).into())
            }
            other => Ok(other?),
        }
    }

    /// The text of a library. A server that is slow to give it, or its name's DNS, is left alone
    /// when the budget is used up.
    pub(super) fn text_of(&self, uri: &str) -> Result<String, ConfigError> {
        let mut left = self.budget.left();
        if loader::is_local(uri) {
            left = left.max(FILE);
        }
        let own = uri.to_owned();
        let down = |reason: String| {
            let uri = loader::shown(uri);
            ConfigError::Library(LoadError::Down { uri, reason })
        };
        match budget::within(left, "tinykvm-library", move || loader::library(&own)) {
            Ok(text) => text.map_err(ConfigError::Library),
            Err(Unanswered::Late) => Err(self.budget.exceeded_by(loader::shown(uri)).into()),
            Err(Unanswered::Panicked) => Err(down("a bug in the VMOD, please report".to_owned())),
            Err(Unanswered::Thread(error)) => Err(down(format!("cannot start a thread: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::update::UpdateError;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(300);

    fn vcl(whole: Duration) -> Vcl {
        Vcl {
            budget: Budget::new(Instant::now(), whole),
            ..Vcl::new()
        }
    }

    /// A server that takes connections and says nothing until it is dropped.
    fn silent() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/x", listener.local_addr().unwrap());
        (listener, uri)
    }

    /// Defines a program that starts once the server has answered.
    fn waiting(vcl: &Vcl, uri: &str, max_queue_time: f64) -> Arc<Program> {
        let json = format!(r#"{{"uri": "{uri}", "max_queue_time": {max_queue_time}}}"#);
        vcl.configure("p", &json).unwrap();
        let program = vcl.program(b"p").unwrap();
        program.start();
        program
    }

    fn says(awaited: &str, whole: Duration) -> String {
        format!(
            "no time is left to wait for {awaited}: all calls in vcl_init have {whole:?} together, \
             because varnishd ends a child that is silent for longer than cli_timeout"
        )
    }

    #[test]
    fn a_start_waits_for_no_vm_and_is_not_counted_as_a_reservation() {
        let path = guests::compile("hello");
        let json = format!(r#"{{"filename": "{}", "concurrency": 1}}"#, path.display());
        let first = vcl(LONG);
        first.configure("p", &json).unwrap();
        let program = first.program(b"p").unwrap();
        program.start();
        first.await_start(&program).unwrap();
        let _busy = program.reserve().unwrap();
        // Also without any time it need not wait.
        vcl(Duration::ZERO).await_start(&program).unwrap();
        let stats = program.statistics().unwrap();
        assert_eq!(stats["program"]["reservation_timeouts"], 0);
    }

    #[test]
    fn a_vcl_has_45_seconds_from_when_its_load_begins() {
        let begun = Instant::now();
        let vcl = Vcl::new();
        let whole = vcl.budget().until() - begun;
        assert!((45.0..46.0).contains(&whole.as_secs_f64()), "{whole:?}");
    }

    #[test]
    fn libraries_and_starts_in_a_row_have_one_budget() {
        let vcl = vcl(SHORT);
        let (_server, uri) = silent();
        let begun = Instant::now();
        for _ in 0..3 {
            let error = vcl.library(&uri).unwrap_err();
            assert_eq!(error.to_string(), says(&uri, SHORT));
            assert!(error.is_fetch(), "VCL decides what to do without it");
        }
        let program = waiting(&vcl, &uri, 60.0);
        let error = vcl.await_start(&program).unwrap_err();
        assert_eq!(error.to_string(), says("program p to start", SHORT));
        // The least of what any of the calls takes by itself is 15 seconds.
        let took = begun.elapsed();
        assert!(took >= SHORT && took < Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_start_waits_for_what_is_left_of_the_budget() {
        let vcl = vcl(SHORT);
        let (_server, uri) = silent();
        let program = waiting(&vcl, &uri, 60.0);
        let error = vcl.await_start(&program).unwrap_err();
        assert_eq!(error.to_string(), says("program p to start", SHORT));
        assert!(vcl.budget().left().is_zero());
    }

    #[test]
    fn a_local_file_is_read_also_when_the_budget_is_used_up() {
        let vcl = vcl(Duration::ZERO);
        let path = std::env::temp_dir().join(format!("tinykvm-init-{}", std::process::id()));
        fs::write(&path, r#"{"p": {"filename": "/p"}}"#).unwrap();
        vcl.library(&format!("file://{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(vcl.names(), ["p"]);
    }

    #[test]
    fn what_fails_or_has_limits_of_its_own_says_so_within_the_budget() {
        let vcl = vcl(LONG);
        let (server, uri) = silent();
        let program = waiting(&vcl, &uri, 0.2);
        let error = vcl.await_start(&program).unwrap_err().to_string();
        assert!(error.ends_with("longer than max_queue_time"), "{error}");
        drop(server);
        let error = vcl.library(&uri).unwrap_err();
        assert!(matches!(error, ConfigError::Library(_)), "{error}");
    }

    #[test]
    fn an_update_in_vcl_init_goes_on_when_the_budget_is_used_up() {
        let vcl = vcl(LONG);
        vcl.configure("p", r#"{"filename": "/p"}"#).unwrap();
        let updatable = vcl.updatable(b"p").unwrap();
        let (let_end, may_end) = mpsc::channel::<()>();
        let (tell_end, ended) = mpsc::channel();
        let slow = move |_: &_| {
            may_end.recv().unwrap();
            tell_end.send(()).unwrap();
            Err(UpdateError::Empty)
        };
        let budget = Budget::new(Instant::now(), SHORT);
        let error = updatable.within_budget(&budget, slow).unwrap_err();
        let awaited = "the update of program p, which goes on";
        assert_eq!(error.to_string(), says(awaited, SHORT));
        let_end.send(()).unwrap();
        ended.recv_timeout(LONG).unwrap();

        let never = |_: &_| unreachable!("without time it does not begin");
        let error = updatable.within_budget(&budget, never).unwrap_err();
        assert_eq!(error.to_string(), says("the update of program p", SHORT));
        assert!(matches!(
            updatable.within_budget(vcl.budget(), |_| Err(UpdateError::Empty)),
            Err(UpdateError::Empty)
        ));
    }
}
