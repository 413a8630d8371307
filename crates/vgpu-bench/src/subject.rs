//! The device that is measured, as a program sees it.

use cuda_types::CuResult;
use nvidia::plain::{Adder, Device, Driver, Memory, PageLocked};

use crate::message::{Facts, HostMemory};

/// What is done to a device while it is measured. Tests measure devices that lose things.
pub(crate) trait Subject {
    /// Waits for everything.
    fn synchronize(&mut self) -> CuResult<()>;
    /// Launches a kernel that adds `number` to the sum on the device.
    fn add(&mut self, number: u64) -> CuResult<()>;
    /// The first bytes of the sum on the device, in its order: little endian.
    fn read_sum(&mut self, to: &mut [u8]) -> CuResult<()>;
    /// The buffer of the host from and to which copies are measured.
    fn host(&mut self, memory: HostMemory) -> &mut [u8];
    /// Copies the first bytes of such a buffer to the device, and waits.
    fn copy_to_device(&mut self, memory: HostMemory, bytes: usize) -> CuResult<()>;
    /// Copies to the first bytes of such a buffer, and waits.
    fn copy_to_host(&mut self, memory: HostMemory, bytes: usize) -> CuResult<()>;
    /// Puts bytes where the copies go, by another way that nobody measures.
    fn put(&mut self, bytes: &[u8]) -> CuResult<()>;
    /// Reads the bytes where the copies go.
    fn take(&mut self, bytes: &mut [u8]) -> CuResult<()>;
}

/// A device behind a driver.
#[derive(Debug)]
pub(crate) struct Gpu<'a> {
    device: Device<'a>,
    adder: Adder,
    sum: Memory<'a>,
    memory: Memory<'a>,
    pageable: Vec<u8>,
    locked: PageLocked<'a>,
}

impl<'a> Gpu<'a> {
    /// Makes the device ready for copies of up to `largest` bytes.
    pub(crate) fn new(device: Device<'a>, largest: usize) -> CuResult<Gpu<'a>> {
        let adder = device.adder()?;
        let sum = device.allocate(SUM_BYTES)?;
        device.copy_to_device(&sum, &[0; SUM_BYTES])?;
        let (memory, locked) = (device.allocate(largest)?, device.page_locked(largest)?);
        Ok(Gpu { device, adder, sum, memory, pageable: vec![0; largest], locked })
    }

    /// What the driver says about itself and the device.
    pub(crate) fn facts(&self, driver: &Driver) -> CuResult<Facts> {
        let version = driver.version()?;
        let version = format!("{}.{}", version / 1000, version % 1000 / 10);
        Ok(Facts { device: self.device.name()?, driver: version })
    }
}

impl Subject for Gpu<'_> {
    fn synchronize(&mut self) -> CuResult<()> {
        self.device.synchronize()
    }

    fn add(&mut self, number: u64) -> CuResult<()> {
        self.device.launch(self.adder, &self.sum, number)
    }

    fn read_sum(&mut self, to: &mut [u8]) -> CuResult<()> {
        self.device.copy_to_host(to, &self.sum)
    }

    fn host(&mut self, memory: HostMemory) -> &mut [u8] {
        match memory {
            HostMemory::Pageable => &mut self.pageable,
            HostMemory::PageLocked => &mut self.locked,
        }
    }

    // A pageable copy to the device may return before the bytes are there, so it is waited for.
    fn copy_to_device(&mut self, memory: HostMemory, bytes: usize) -> CuResult<()> {
        match memory {
            HostMemory::Pageable => {
                self.device.copy_to_device(&self.memory, &self.pageable[..bytes])?;
                self.device.synchronize()
            }
            HostMemory::PageLocked => {
                self.device.copy_to_device_by_stream(&self.memory, &self.locked[..bytes])
            }
        }
    }

    fn copy_to_host(&mut self, memory: HostMemory, bytes: usize) -> CuResult<()> {
        match memory {
            HostMemory::Pageable => self.device.copy_to_host(&mut self.pageable[..bytes], &self.memory),
            HostMemory::PageLocked => {
                self.device.copy_to_host_by_stream(&mut self.locked[..bytes], &self.memory)
            }
        }
    }

    fn put(&mut self, bytes: &[u8]) -> CuResult<()> {
        self.device.copy_to_device(&self.memory, bytes)?;
        self.device.synchronize()
    }

    fn take(&mut self, bytes: &mut [u8]) -> CuResult<()> {
        self.device.copy_to_host(bytes, &self.memory)
    }
}

const SUM_BYTES: usize = size_of::<u64>();
