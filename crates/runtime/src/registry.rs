//! All programs of the process, by their definition: VCLs that define a program identically get
//! the same one, so that loading a VCL again costs no restart and loses no state.
//!
//! Guards: one program for one definition at any time; a program lives as long as a VCL or a
//! request holds it, and no longer: the registry itself holds none.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::config::ProgramConfig;

pub(crate) struct Registry<P> {
    known: Mutex<HashMap<ProgramConfig, Weak<P>>>,
}

impl<P> Registry<P> {
    pub(crate) fn new() -> Self {
        Self {
            known: Mutex::default(),
        }
    }

    /// The program of that definition; `make` makes it where there is none.
    pub(crate) fn obtain(
        &self,
        config: &ProgramConfig,
        make: impl FnOnce(&ProgramConfig) -> Arc<P>,
    ) -> Arc<P> {
        let mut known = self.known.lock();
        if let Some(program) = known.get(config).and_then(Weak::upgrade) {
            return program;
        }
        // Definitions that nobody uses any more are forgotten whenever one comes.
        known.retain(|_, program| program.strong_count() > 0);
        let program = make(config);
        known.insert(config.clone(), Arc::downgrade(&program));
        program
    }
}

impl<P> std::fmt::Debug for Registry<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    struct Counted<'a>(&'a AtomicUsize);

    impl<'a> Counted<'a> {
        fn new(alive: &'a AtomicUsize) -> Arc<Self> {
            alive.fetch_add(1, Ordering::SeqCst);
            Arc::new(Self(alive))
        }
    }

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn config(name: &str) -> ProgramConfig {
        ProgramConfig {
            name: name.into(),
            ..ProgramConfig::default()
        }
    }

    #[test]
    fn equal_definitions_share_one_program_and_different_ones_do_not() {
        let alive = AtomicUsize::new(0);
        let registry = Registry::new();
        let obtain = |config: &ProgramConfig| registry.obtain(config, |_| Counted::new(&alive));
        let first = obtain(&config("a"));
        assert!(Arc::ptr_eq(&first, &obtain(&config("a"))));
        let mut other = config("a");
        other.settings.concurrency = 3;
        assert!(!Arc::ptr_eq(&first, &obtain(&other)));
        let _b = obtain(&config("b"));
        assert_eq!(alive.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_program_dies_with_its_last_holder_and_its_definition_is_forgotten() {
        let alive = AtomicUsize::new(0);
        let registry = Registry::new();
        let obtain = |name: &str| registry.obtain(&config(name), |_| Counted::new(&alive));
        let (first, second) = (obtain("a"), obtain("a"));
        drop(first);
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        drop(second);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
        for number in 0..100 {
            drop(obtain(&number.to_string()));
        }
        assert_eq!(registry.known.lock().len(), 1);
    }

    #[test]
    fn threads_that_ask_at_once_get_the_same_program() {
        let alive = AtomicUsize::new(0);
        let made = AtomicUsize::new(0);
        let registry = Registry::new();
        let kept = registry.obtain(&config("a"), |_| Counted::new(&alive));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let program = registry.obtain(&config("a"), |_| {
                            made.fetch_add(1, Ordering::SeqCst);
                            Counted::new(&alive)
                        });
                        assert!(Arc::ptr_eq(&program, &kept));
                    }
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 0);
    }
}
