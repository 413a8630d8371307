//! User objects: what the program ties to a graph, ended by a function of the program when nobody refers to it.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cuda_types::{CuError, CuResult};

use crate::state::{HostFunctionGuard, is_in_host_function};

/// An object of the program; its destructor runs when the last reference goes.
pub(crate) struct UserObject {
    pub(crate) handle: u64,
    destroy: unsafe extern "C" fn(*mut c_void),
    /// What the destructor is given; only passed on.
    data: usize,
}

/// The references that the program itself holds.
struct Own {
    count: u32,
    object: Option<Arc<UserObject>>,
    /// Graphs may hold the object after the program has let go.
    known: Weak<UserObject>,
}

static OBJECTS: Mutex<Option<HashMap<u64, Own>>> = Mutex::new(None);

impl UserObject {
    /// Makes an object with `count` references of the program.
    pub(crate) fn create(destroy: unsafe extern "C" fn(*mut c_void), data: *mut c_void, count: u32) -> u64 {
        let handle = super::store::new_handle();
        let object = Arc::new(UserObject { handle, destroy, data: data.expose_provenance() });
        let known = Arc::downgrade(&object);
        objects(|objects| objects.insert(handle, Own { count, object: Some(object), known }));
        handle
    }

    /// Adds references of the program.
    pub(crate) fn retain(handle: u64, count: u32) -> CuResult<()> {
        objects(|objects| {
            let own = objects.get_mut(&handle).ok_or(CuError::INVALID_VALUE)?;
            let object = own.known.upgrade().ok_or(CuError::INVALID_VALUE)?;
            own.count = own.count.checked_add(count).ok_or(CuError::INVALID_VALUE)?;
            own.object = Some(object);
            Ok(())
        })
    }

    /// Takes references of the program back; the answer ends the object when it is dropped, outside every lock.
    pub(crate) fn release(handle: u64, count: u32) -> CuResult<Option<Arc<UserObject>>> {
        objects(|objects| {
            let own = objects.get_mut(&handle).ok_or(CuError::INVALID_VALUE)?;
            own.count = own.count.checked_sub(count).ok_or(CuError::INVALID_VALUE)?;
            Ok(if own.count == 0 { own.object.take() } else { None })
        })
    }

    /// The object behind a handle.
    pub(crate) fn find(handle: u64) -> CuResult<Arc<UserObject>> {
        let found = objects(|objects| objects.get(&handle).and_then(|own| own.known.upgrade()));
        found.ok_or(CuError::INVALID_VALUE)
    }
}

impl Drop for UserObject {
    fn drop(&mut self) {
        objects(|objects| objects.remove(&self.handle));
        // CUDA Programming Guide, "CUDA User Objects": a destructor must not call CUDA, like a host function.
        let _guard = (!is_in_host_function()).then(HostFunctionGuard::enter);
        // SAFETY: the function and data that the program gave, called once.
        unsafe { (self.destroy)(std::ptr::with_exposed_provenance_mut(self.data)) };
    }
}

fn objects<T>(look: impl FnOnce(&mut HashMap<u64, Own>) -> T) -> T {
    look(OBJECTS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    unsafe extern "C" fn count(data: *mut c_void) {
        // SAFETY: the test below gives an AtomicU32 that outlives the object.
        unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn the_destructor_runs_once_when_the_last_reference_goes() {
        let ended = AtomicU32::new(0);
        let handle = UserObject::create(count, (&raw const ended).cast_mut().cast(), 2);
        let graph = UserObject::find(handle).unwrap();
        assert!(UserObject::release(handle, 3).is_err(), "more than there are");
        drop(UserObject::release(handle, 2).unwrap());
        assert_eq!(ended.load(Ordering::Relaxed), 0, "a graph still refers to it");
        UserObject::retain(handle, 1).unwrap();
        drop(graph);
        drop(UserObject::release(handle, 1).unwrap());
        assert_eq!(ended.load(Ordering::Relaxed), 1);
        assert!(UserObject::retain(handle, 1).is_err() && UserObject::find(handle).is_err());
    }
}
