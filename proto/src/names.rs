//! The names that a client gives to what it creates.
//!
//! A create call is posted with a name that the client chose; the server binds the name to the device's own handle.
//! Creating needs no round trip, and the devices know nothing of it. A create that fails *poisons* its name: later
//! uses are dropped and report the first error, since their cause is not theirs.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cuda_types::{CUarray, CUevent, CUfunction, CUmipmappedArray, CUmodule, CUstream, CuError, CuResult};
use rustc_hash::FxHashMap;

use crate::codec::Malformed;

/// A kind of thing that a client may name.
pub trait Named: Copy + Sized {
    /// The table of this kind.
    fn table(tables: &mut Tables) -> &mut FxHashMap<u64, CuResult<Self>>;
    /// The number behind a handle or name.
    fn number(self) -> u64;
    /// A handle or name from its number.
    fn from_number(number: u64) -> Self;
    /// Whether this number is CUDA's own and needs no table: the null handle and the default streams.
    fn is_builtin(self) -> bool;
    /// What is wrong with a name that was never given.
    const KIND: &'static str;
    /// Looks at what this thread has found lately, where that saves time.
    #[inline]
    fn with_found<R>(_: impl FnOnce(&Found) -> R) -> Option<R> {
        None
    }
}

/// Names that a thread has resolved lately, in places by their last bits: a launch would otherwise take a lock for its
/// function alone.
pub struct Found([Cell<FoundName>; 16]);

#[derive(Clone, Copy, Default)]
struct FoundName {
    /// The [state](Names::state) in which it was found.
    state: u64,
    name: u64,
    number: u64,
}

impl Found {
    #[inline]
    fn place(&self, name: u64) -> &Cell<FoundName> {
        &self.0[usize::try_from(name % self.0.len() as u64).expect("less than the places")]
    }
}

thread_local! {
    static FUNCTIONS: Found = const { Found([const { Cell::new(FoundName { state: 0, name: 0, number: 0 }) }; 16]) };
}

/// Name -> handle of the device, for one session. Shared by the threads of a worker.
pub struct Names {
    tables: Mutex<Tables>,
    /// Differs for any two states of any two tables of functions in this process; never 0.
    state: AtomicU64,
}

impl Default for Names {
    fn default() -> Self {
        Names { tables: Mutex::default(), state: AtomicU64::new(fresh_state()) }
    }
}

fn fresh_state() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// One table for each kind of thing.
#[derive(Default)]
pub struct Tables {
    streams: FxHashMap<u64, CuResult<CUstream>>,
    events: FxHashMap<u64, CuResult<CUevent>>,
    modules: FxHashMap<u64, CuResult<CUmodule>>,
    functions: FxHashMap<u64, CuResult<CUfunction>>,
    arrays: FxHashMap<u64, CuResult<CUarray>>,
    mipmapped_arrays: FxHashMap<u64, CuResult<CUmipmappedArray>>,
    /// By the name of their module, with which they go.
    functions_of: FxHashMap<u64, Vec<u64>>,
}

impl Names {
    /// The most names of one kind that a client may hold.
    const LIMIT: usize = 1 << 20;

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds `name` to what a create call answered. A name in use, or too many names, is the client's fault.
    pub fn bind<T: Named>(&self, name: u64, created: CuResult<T>) -> Result<(), Malformed> {
        let mut tables = self.lock();
        let table = T::table(&mut tables);
        if T::from_number(name).is_builtin() || table.contains_key(&name) || table.len() >= Names::LIMIT {
            return Err(Malformed::new(T::KIND, format_args!("name {name:#x} cannot be given")));
        }
        table.insert(name, created);
        Ok(())
    }

    /// The device's handle for `name`; the first error if its creation failed; an invalid handle if never given.
    #[inline]
    pub fn resolve<T: Named>(&self, name: T) -> CuResult<T> {
        if name.is_builtin() {
            return Ok(name);
        }
        let (state, number) = (self.state.load(Ordering::Acquire), name.number());
        let found = T::with_found(|found| {
            let last = found.place(number).get();
            (last.state == state && last.name == number).then_some(last.number)
        });
        if let Some(number) = found.flatten() {
            return Ok(T::from_number(number));
        }
        let handle = self.look_up(name)?;
        // The state was read before: a change since then makes this entry useless, not wrong.
        T::with_found(|found| {
            found.place(number).set(FoundName { state, name: number, number: handle.number() })
        });
        Ok(handle)
    }

    fn look_up<T: Named>(&self, name: T) -> CuResult<T> {
        T::table(&mut self.lock()).get(&name.number()).copied().unwrap_or(Err(CuError::INVALID_HANDLE))
    }

    /// Forgets `name`, once what it named is destroyed.
    pub fn forget<T: Named>(&self, name: T) {
        let mut tables = self.lock();
        T::table(&mut tables).remove(&name.number());
        if T::with_found(|_| ()).is_some() {
            self.change_state();
        }
    }

    /// What threads have found before is no longer to be believed. Called with the lock held.
    fn change_state(&self) {
        self.state.store(fresh_state(), Ordering::Release);
    }
}

impl Names {
    /// Notes that a function belongs to a module; both are names.
    pub(crate) fn belongs(&self, function: u64, module: u64) {
        self.lock().functions_of.entry(module).or_default().push(function);
    }

    /// Forgets a module that was unloaded, and its functions.
    pub(crate) fn forget_module(&self, module: CUmodule) {
        let mut tables = self.lock();
        tables.modules.remove(&module.0);
        for function in tables.functions_of.remove(&module.0).unwrap_or_default() {
            tables.functions.remove(&function);
        }
        self.change_state();
    }
}

macro_rules! named {
    ($($type:ident $table:ident $kind:literal $builtin:literal $($found:ident)?;)*) => {$(
        impl Named for $type {
            fn table(tables: &mut Tables) -> &mut FxHashMap<u64, CuResult<Self>> { &mut tables.$table }
            fn number(self) -> u64 { self.0 }
            fn from_number(number: u64) -> Self { $type(number) }
            fn is_builtin(self) -> bool { self.0 <= $builtin }
            const KIND: &'static str = $kind;
            $(
                #[inline]
                fn with_found<R>(look: impl FnOnce(&Found) -> R) -> Option<R> { Some($found.with(look)) }
            )?
        }
    )*};
}

named! {
    CUstream streams "stream name" 2;
    CUevent events "event name" 0;
    CUmodule modules "module name" 0;
    CUfunction functions "function name" 0 FUNCTIONS;
    CUarray arrays "array name" 0;
    CUmipmappedArray mipmapped_arrays "mipmapped array name" 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poisoned_name_reports_the_first_error() {
        let names = Names::default();
        names.bind::<CUstream>(0x100, Err(CuError::OUT_OF_MEMORY)).expect("a fresh name");
        assert_eq!(names.resolve(CUstream(0x100)), Err(CuError::OUT_OF_MEMORY));
        assert_eq!(names.resolve(CUstream(0x101)), Err(CuError::INVALID_HANDLE));
        assert_eq!(names.resolve(CUstream::LEGACY), Ok(CUstream::LEGACY));
    }

    #[test]
    fn functions_go_with_their_module() {
        let names = Names::default();
        names.bind(0x100, Ok(CUmodule(1))).expect("a fresh name");
        for name in [0x101, 0x102] {
            names.bind(name, Ok(CUfunction(name))).expect("a fresh name");
            names.belongs(name, 0x100);
        }
        names.forget_module(CUmodule(0x100));
        assert_eq!(names.resolve(CUfunction(0x102)), Err(CuError::INVALID_HANDLE));
        assert_eq!(names.resolve(CUmodule(0x100)), Err(CuError::INVALID_HANDLE));
    }

    #[test]
    fn what_a_thread_has_found_is_forgotten_with_its_module_and_in_other_sessions() {
        let [names, others] = [Names::default(), Names::default()];
        for (names, handle) in [(&names, 7), (&others, 8)] {
            names.bind(0x100, Ok(CUmodule(1))).expect("a fresh name");
            names.bind(0x101, Ok(CUfunction(handle))).expect("a fresh name");
            names.belongs(0x101, 0x100);
        }
        for _ in 0..2 {
            assert_eq!(names.resolve(CUfunction(0x101)), Ok(CUfunction(7)));
            assert_eq!(others.resolve(CUfunction(0x101)), Ok(CUfunction(8)));
            // In the same place.
            assert_eq!(names.resolve(CUfunction(0x111)), Err(CuError::INVALID_HANDLE));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| names.forget_module(CUmodule(0x100))).join().expect("no panic")
        });
        assert_eq!(names.resolve(CUfunction(0x101)), Err(CuError::INVALID_HANDLE));
        names.bind(0x101, Ok(CUfunction(9))).expect("free again");
        assert_eq!(names.resolve(CUfunction(0x101)), Ok(CUfunction(9)));
        names.forget(CUfunction(0x101));
        assert_eq!(names.resolve(CUfunction(0x101)), Err(CuError::INVALID_HANDLE));
        assert_eq!(others.resolve(CUfunction(0x101)), Ok(CUfunction(8)));
    }

    #[test]
    fn a_name_in_use_is_refused() {
        let names = Names::default();
        names.bind(0x100, Ok(CUevent(5))).expect("a fresh name");
        assert!(names.bind(0x100, Ok(CUevent(6))).is_err());
        names.forget(CUevent(0x100));
        assert!(names.bind(0x100, Ok(CUevent(6))).is_ok());
        assert!(names.bind(0, Ok(CUevent(6))).is_err(), "the null handle is no name");
    }
}
