//! Where the variables of loaded modules lie.
//!
//! Their addresses are the devices' own, outside the windows: one can be equal to an address of this process, or to
//! one on another device. So a pointer counts as a variable only where the program says that it means device memory,
//! or where the program got the address from us ([`Globals::tell`]).

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

/// The variables of all modules, by device and address.
pub(crate) struct Globals {
    all: RwLock<BTreeMap<(usize, u64), Global>>,
}

struct Global {
    bytes: u64,
    /// The program has asked for the address.
    is_told: bool,
}

/// The variables of the process.
pub(crate) static GLOBALS: Globals = Globals { all: RwLock::new(BTreeMap::new()) };

impl Globals {
    /// A module with this variable was loaded.
    pub(crate) fn add(&self, ordinal: usize, address: u64, bytes: u64) {
        self.write().insert((ordinal, address), Global { bytes, is_told: false });
    }

    /// The module of this variable was unloaded.
    pub(crate) fn remove(&self, ordinal: usize, address: u64) {
        self.write().remove(&(ordinal, address));
    }

    /// The device was reset.
    pub(crate) fn remove_device(&self, ordinal: usize) {
        self.write().retain(|(device, _), _| *device != ordinal);
    }

    /// The program is told the address of this variable.
    pub(crate) fn tell(&self, ordinal: usize, address: u64) {
        if let Some(global) = self.write().get_mut(&(ordinal, address)) {
            global.is_told = true;
        }
    }

    /// Whether a variable of the device holds `address`; with `told`, only one whose address the program has.
    pub(crate) fn holds(&self, ordinal: usize, address: u64, told: bool) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let before = all.range((ordinal, 0)..=(ordinal, address)).next_back();
        before.is_some_and(|((_, start), global)| address - start < global.bytes && (global.is_told || !told))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<(usize, u64), Global>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_found_on_its_device_from_its_first_to_its_last_byte() {
        let globals = Globals { all: RwLock::new(BTreeMap::new()) };
        globals.add(1, 0x7000, 16);
        assert!(globals.holds(1, 0x7000, false) && globals.holds(1, 0x700f, false));
        assert!(!globals.holds(1, 0x7010, false) && !globals.holds(1, 0x6fff, false));
        assert!(!globals.holds(0, 0x7000, false) && !globals.holds(2, 0x7000, false));
        assert!(!globals.holds(1, 0x7000, true));
        globals.tell(1, 0x7000);
        assert!(globals.holds(1, 0x7004, true));
        globals.remove_device(1);
        assert!(!globals.holds(1, 0x7000, false));
    }
}
