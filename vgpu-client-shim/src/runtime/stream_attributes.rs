//! Attributes of streams: what a program sets it can ask back. None of them changes what a stream does: priority,
//! cache windows, waiting and memory domains are wishes about speed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use cuda_types::{CuError, CuResult};

use super::stream::priority_within;
use crate::edge::{Out, Required, twins};
use crate::graph::capture::{self, Key};
use crate::handles::{Resolved, STREAMS, resolve};

twins! {
    /// An attribute of a stream: what was set, or what CUDA has from the start.
    fn cudaStreamGetAttribute, cudaStreamGetAttribute_ptsz(default; stream: u64, attribute: u32, value: Out<'_, Value>) {
        let value = value.required()?;
        let target = resolve(default, stream)?;
        let set = with(|all| all.get(&capture::key(&target))?.get(&attribute).copied());
        value.write(match set {
            Some(set) => set,
            None => initial(attribute, made_with(stream))?,
        });
        Ok(())
    }

    /// Sets an attribute of a stream.
    fn cudaStreamSetAttribute, cudaStreamSetAttribute_ptsz(default; stream: u64, attribute: u32, value: Option<&Value>) {
        let mut value = *value.required()?;
        let target = resolve(default, stream)?;
        check(attribute, &value)?;
        if attribute == PRIORITY {
            let range = target.device.facts()?.stream_priorities;
            value.0[0] = priority_within(range, value.0[0].cast_signed()).cast_unsigned();
        }
        with(|all| all.entry(capture::key(&target)).or_default().insert(attribute, value));
        Ok(())
    }

    /// Sets the attributes of a stream to those of another one on the same device.
    fn cudaStreamCopyAttributes, cudaStreamCopyAttributes_ptsz(default; dst: u64, src: u64) {
        let (to, from) = (resolve(default, dst)?, resolve(default, src)?);
        if to.device.ordinal != from.device.ordinal {
            return Err(CuError::INVALID_VALUE);
        }
        with(|all| {
            let mut copied = all.get(&capture::key(&from)).cloned().unwrap_or_default();
            copied.entry(PRIORITY).or_insert(Value::of(made_with(src).cast_unsigned()));
            all.insert(capture::key(&to), copied);
        });
        Ok(())
    }
}

/// `cudaLaunchAttributeValue`.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Value([u32; 16]);

impl Value {
    /// A value that starts with a number; the rest is zero.
    fn of(first: u32) -> Value {
        let mut value = Value::default();
        value.0[0] = first;
        value
    }
}

/// By stream, then by `cudaLaunchAttributeID`.
type All = HashMap<Key, BTreeMap<u32, Value>>;

static ATTRIBUTES: Mutex<Option<All>> = Mutex::new(None);

/// The priority that was set for a stream.
pub(crate) fn priority(target: &Resolved) -> Option<i32> {
    with(|all| Some(all.get(&capture::key(target))?.get(&PRIORITY)?.0[0].cast_signed()))
}

/// The stream is destroyed.
pub(crate) fn forget_stream(key: Key) {
    with(|all| all.remove(&key));
}

/// The device is reset.
pub(crate) fn forget_device(ordinal: usize) {
    with(|all| all.retain(|(device, _), _| *device != ordinal));
}

fn with<T>(look: impl FnOnce(&mut All) -> T) -> T {
    look(ATTRIBUTES.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// The priority that a stream was made with.
fn made_with(stream: u64) -> i32 {
    STREAMS.get(stream).map_or(0, |stream| stream.priority)
}

/// What an attribute is before it is set.
fn initial(attribute: u32, priority: i32) -> CuResult<Value> {
    match attribute {
        ACCESS_POLICY_WINDOW | DOMAIN | NVLINK_UTILIZATION => Ok(Value::default()),
        // cudaSyncPolicyAuto.
        SYNCHRONIZATION_POLICY => Ok(Value::of(1)),
        PRIORITY => Ok(Value::of(priority.cast_unsigned())),
        // cudaLaunchMemSyncDomainMap: the domain "default" is 0, "remote" is 1; a byte each.
        DOMAIN_MAP => Ok(Value::of(0x0100)),
        _ => Err(CuError::INVALID_VALUE),
    }
}

/// Refuses what is no attribute of streams, or no value of it.
fn check(attribute: u32, value: &Value) -> CuResult<()> {
    let first = value.0[0];
    let known = match attribute {
        SYNCHRONIZATION_POLICY => (1..=4).contains(&first),
        DOMAIN => first <= 1,
        // cudaAccessPolicyWindow: address, bytes, ratio of hits (0 to 1), what hits and misses are.
        ACCESS_POLICY_WINDOW => {
            let ratio = f32::from_bits(value.0[4]);
            (0.0..=1.0).contains(&ratio) && value.0[5] <= 2 && value.0[6] <= 1
        }
        PRIORITY | DOMAIN_MAP | NVLINK_UTILIZATION => true,
        _ => false,
    };
    if known { Ok(()) } else { Err(CuError::INVALID_VALUE) }
}

const ACCESS_POLICY_WINDOW: u32 = 1;
const SYNCHRONIZATION_POLICY: u32 = 3;
const PRIORITY: u32 = 8;
const DOMAIN_MAP: u32 = 9;
const DOMAIN: u32 = 10;
const NVLINK_UTILIZATION: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_the_layout_of_the_header() {
        assert_eq!((size_of::<Value>(), align_of::<Value>()), (64, 8));
    }

    #[test]
    fn only_attributes_of_streams_are_taken_and_only_their_values() {
        assert!(check(SYNCHRONIZATION_POLICY, &Value::of(4)).is_ok());
        assert!(check(SYNCHRONIZATION_POLICY, &Value::of(5)).is_err());
        assert!(check(DOMAIN, &Value::of(2)).is_err());
        // Cooperative launches are no matter of a stream.
        assert!(check(2, &Value::of(1)).is_err() && initial(2, 0).is_err());
        let mut window = Value::default();
        window.0[4] = 0.6_f32.to_bits();
        assert!(check(ACCESS_POLICY_WINDOW, &window).is_ok());
        window.0[4] = 1.5_f32.to_bits();
        assert!(check(ACCESS_POLICY_WINDOW, &window).is_err());
        assert_eq!(initial(PRIORITY, -3).unwrap().0[0].cast_signed(), -3);
    }
}
