//! User objects, and what a device holds for graphs.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use cuda_types::{CuError, CuResult};

use crate::edge::{Out, Required, entries};
use crate::graph::user_object::UserObject;
use crate::graph::{memory, store};
use crate::runtime::stream::HostFunction;
use crate::state::devices;

entries! {
    /// Makes an object that `destroy` ends when the last reference goes.
    fn cudaUserObjectCreate(object: Out<'_, u64>, data: *mut c_void, destroy: Option<HostFunction>, count: u32, flags: u32) {
        let (object, destroy) = (object.required()?, destroy.required()?);
        // CUDA Runtime API, cudaUserObjectCreate: cudaUserObjectNoDestructorSync is required.
        if count == 0 || count > MAX_COUNT || flags != 1 {
            return Err(CuError::INVALID_VALUE);
        }
        object.write(UserObject::create(destroy, data, count));
        Ok(())
    }

    /// Adds references of the program.
    fn cudaUserObjectRetain(object: u64, count: u32) {
        UserObject::retain(object, counted(count)?)
    }

    /// Takes references of the program back.
    fn cudaUserObjectRelease(object: u64, count: u32) {
        UserObject::release(object, counted(count)?).map(drop)
    }

    /// Gives references to a graph: new ones, or with flag 1 those of the program.
    fn cudaGraphRetainUserObject(graph: u64, object: u64, count: u32, flags: u32) {
        let count = counted(count)?;
        if flags > 1 {
            return Err(CuError::INVALID_VALUE);
        }
        let found = UserObject::find(object)?;
        store::with(|store| store.graph(graph).map(drop))?;
        let given = if flags == 1 { UserObject::release(object, count)? } else { None };
        store::with(|store| {
            let objects = &mut store.graph_mut(graph)?.objects;
            match objects.iter_mut().find(|(kept, _)| kept.handle == object) {
                Some((_, held)) => *held = held.saturating_add(count),
                None => objects.push((found, count)),
            }
            CuResult::Ok(())
        })?;
        drop(given);
        Ok(())
    }

    /// Takes references of a graph back.
    fn cudaGraphReleaseUserObject(graph: u64, object: u64, count: u32) {
        let count = counted(count)?;
        let released = store::with(|store| {
            let objects = &mut store.graph_mut(graph)?.objects;
            let place = objects.iter().position(|(kept, _)| kept.handle == object).ok_or(CuError::INVALID_VALUE)?;
            let held = objects[place].1.checked_sub(count).ok_or(CuError::INVALID_VALUE)?;
            objects[place].1 = held;
            CuResult::Ok(if held == 0 { Some(objects.swap_remove(place)) } else { None })
        })?;
        // The destructor runs here, outside the lock.
        drop(released);
        Ok(())
    }

    /// Bytes of a device in use by graphs (0), reserved for them (2), and the highest of both (1, 3).
    fn cudaDeviceGetGraphMemAttribute(ordinal: c_int, attribute: c_int, value: Out<'_, u64>) {
        let value = value.required()?;
        let device = devices().get(ordinal)?;
        let (used, reserved) = memory::usage(device.ordinal);
        let mut highest = HIGHEST.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = highest.get_or_insert_default().entry(device.ordinal).or_default();
        *highest = (highest.0.max(used), highest.1.max(reserved));
        value.write(match attribute {
            0 => used,
            1 => highest.0,
            2 => reserved,
            3 => highest.1,
            _ => return Err(CuError::INVALID_VALUE),
        });
        Ok(())
    }

    /// Resets a highest mark, the only thing that can be set.
    fn cudaDeviceSetGraphMemAttribute(ordinal: c_int, attribute: c_int, value: Option<&u64>) {
        let device = devices().get(ordinal)?;
        if *value.required()? != 0 || !matches!(attribute, 1 | 3) {
            return Err(CuError::INVALID_VALUE);
        }
        let mut highest = HIGHEST.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = highest.get_or_insert_default().entry(device.ordinal).or_default();
        if attribute == 1 { highest.0 = 0 } else { highest.1 = 0 }
        Ok(())
    }

    /// Gives unused memory back: what no graph refers to is given back already.
    fn cudaDeviceGraphMemTrim(ordinal: c_int) {
        devices().get(ordinal).map(drop)
    }
}

/// References that a call may add or take.
const MAX_COUNT: u32 = i32::MAX.cast_unsigned();

/// Highest marks by device, as far as they were looked at: used, reserved.
static HIGHEST: Mutex<Option<HashMap<usize, (u64, u64)>>> = Mutex::new(None);

fn counted(count: u32) -> CuResult<u32> {
    if count == 0 || count > MAX_COUNT { Err(CuError::INVALID_VALUE) } else { Ok(count) }
}
