//! What belongs to one loaded VCL (PRIV_VCL): its programs and the directors that stand for them.
//!
//! Guards: a director outlives every task that may hold it. They are made when first needed and
//! deleted with the VCL, never before.

use std::{
    collections::BTreeMap,
    ffi::{CString, c_void},
    fmt, mem,
    ptr::NonNull,
};

use parking_lot::RwLock;

use crate::{context::Context, ffi};

/// One director of varnishd. Only its address means something to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Director(*const ffi::director);

// SAFETY: an address; varnishd's functions on directors may be called from any thread.
unsafe impl Send for Director {}
// SAFETY: as above.
unsafe impl Sync for Director {}

impl Director {
    pub(crate) fn new(raw: *const ffi::director) -> Self {
        Self(raw)
    }

    pub(crate) fn raw(self) -> *const ffi::director {
        self.0
    }
}

pub(crate) struct State {
    pub(crate) vcl: runtime::Vcl,
    /// For each program as many directors as one task has ever asked for.
    directors: RwLock<BTreeMap<Box<[u8]>, Vec<Director>>>,
}

impl State {
    /// Directors that one task may ask of one program: VCL that loops must not fill the memory.
    pub(crate) const MOST_DIRECTORS: usize = 64;

    /// Makes the state of a VCL that is being loaded.
    pub(crate) fn install(slot: &mut *mut c_void) {
        let state = Box::new(Self {
            vcl: runtime::Vcl::new(),
            directors: RwLock::default(),
        });
        *slot = Box::into_raw(state).cast();
    }

    /// # Safety
    /// `vcl` is the PRIV_VCL of this VMOD in a VCL that stays loaded for `'a`.
    pub(crate) unsafe fn of<'a>(vcl: *mut ffi::vmod_priv) -> Option<&'a Self> {
        // SAFETY: varnishd gives each VCL such a structure; the caller vouches for the kind.
        let slot = unsafe { ffi::tk_vcl(vcl) };
        // SAFETY: the slot is part of that structure, which lives as long as the VCL.
        let state = unsafe { slot.read() }.cast::<Self>();
        // SAFETY: null or made by `install`, and shared only from then on; freed with the VCL.
        unsafe { state.as_ref() }
    }

    /// The director for the `nth` use of a program in a task. All tasks share it: which task
    /// means what by it stands in the task. `None` if varnishd does not give one, which happens
    /// when the VCL cools down.
    pub(crate) fn director(
        &self,
        ctx: Context<'_>,
        program: &[u8],
        nth: usize,
    ) -> Option<Director> {
        let known = |all: &BTreeMap<Box<[u8]>, Vec<Director>>| {
            all.get(program)
                .and_then(|directors| directors.get(nth))
                .copied()
        };
        if let Some(director) = known(&self.directors.read()) {
            return Some(director);
        }
        let mut all = self.directors.write();
        let directors = all.entry(program.into()).or_default();
        while directors.len() <= nth {
            directors.push(make(ctx, program, directors.len())?);
        }
        directors.get(nth).copied()
    }
}

/// The name is what `backend.list` and `beresp.backend` show.
fn make(ctx: Context<'_>, program: &[u8], nth: usize) -> Option<Director> {
    let mut name = program.to_vec();
    if nth > 0 {
        name.extend_from_slice(format!("({nth})").as_bytes());
    }
    let name = CString::new(name).ok()?;
    // SAFETY: the context is valid; the name is copied during the call.
    let raw = unsafe { ffi::tk_director_new(ctx.raw(), name.as_ptr()) };
    (!raw.is_null()).then_some(Director(raw))
}

impl Drop for State {
    fn drop(&mut self) {
        for director in mem::take(self.directors.get_mut()).into_values().flatten() {
            // SAFETY: made by `make` and deleted only here; the VCL has no tasks any more.
            unsafe { ffi::tk_director_delete(director.0) };
        }
    }
}

/// The VCL of a task, which stays loaded as long as there are tasks that run it.
#[derive(Debug)]
pub(crate) struct Loaded(NonNull<State>);

impl Loaded {
    /// # Safety
    /// What is made ends with a task that runs this VCL.
    pub(crate) unsafe fn new(state: &State) -> Self {
        Self(NonNull::from(state))
    }

    pub(crate) fn get(&self) -> &State {
        // SAFETY: by the promise of `new` the VCL is loaded, and its state is freed only with it.
        unsafe { self.0.as_ref() }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("directors", &self.directors)
            .finish_non_exhaustive()
    }
}

/// The VCL is discarded, or did not load.
#[unsafe(no_mangle)]
unsafe extern "C" fn tk_rs_vcl_ended(state: *mut c_void) {
    if state.is_null() {
        return;
    }
    // SAFETY: made by `install`, and varnishd ends a VCL once.
    let state = unsafe { Box::from_raw(state.cast::<State>()) };
    crate::guard::guard(None, (), move || drop(state));
}
