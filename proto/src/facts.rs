//! What is told once, with the handshake or with a module load, so that nobody has to ask again.

use bincode::{Decode, Encode};

/// A device as its server describes it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct DeviceFacts {
    pub name: String,
    pub uuid: [u8; 16],
    /// Bytes of device memory.
    pub total_memory: u64,
    /// What `cuDriverGetVersion` answers: 13000 for 13.0.
    pub driver_version: i32,
    /// `attributes[n]` is `CUdevice_attribute` number `n`; `None` where the driver does not know it.
    pub attributes: Vec<Option<i32>>,
    /// Lowest and highest stream priority.
    pub stream_priorities: (i32, i32),
}

impl DeviceFacts {
    /// A device attribute by its number.
    pub fn attribute(&self, number: i32) -> Option<i32> {
        self.attributes.get(usize::try_from(number).ok()?).copied().flatten()
    }

    /// The identifier as NVML and nvidia-smi write it.
    pub fn uuid_text(&self) -> String {
        let hex: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// A kernel as its module describes it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct FunctionFacts {
    pub name: String,
    /// Size in bytes of each parameter, by ordinal. Values travel in this order, without padding.
    pub parameters: Vec<u32>,
    /// Where each parameter lies in a buffer that holds them as the kernel's code sees them (`cuFuncGetParamInfo`).
    pub offsets: Vec<u32>,
    /// `attributes[n]` is `CUfunction_attribute` number `n`.
    pub attributes: Vec<i32>,
    /// How many blocks of 32 threads fit on one multiprocessor, of 64, of 96 and so on, without dynamic shared memory and with
    /// the attributes above (`cuOccupancyMaxActiveBlocksPerMultiprocessor`). What lies beyond the end must be asked.
    pub resident: Vec<u16>,
    /// Why the kernel cannot run on this device, in one line; `None` if it can.
    pub unsupported: Option<String>,
}

/// A variable of a module.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct GlobalFacts {
    pub name: String,
    /// Where it lies in device memory.
    pub address: u64,
    pub bytes: u64,
}

/// What comes back from loading a module.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct ModuleFacts {
    pub functions: Vec<FunctionFacts>,
    pub globals: Vec<GlobalFacts>,
}
