//! Host functions in streams (`cuLaunchHostFunc`, `cuStreamAddCallback`).

use cuda_types::{CUstream, CuResult};
use proto::{Caller, TransferCalls};

use crate::hazards::PendingWrite;
use crate::session::Session;
use crate::state::HostFunction;

impl Session {
    /// Has `function` run in stream order, on a thread of its own, never on one of the program's; the stream goes on
    /// when it has returned. It gets 0, or the `CUresult` that broke the context.
    pub fn launch_host_function(
        &self,
        stream: CUstream,
        function: Box<dyn FnOnce(u32) + Send>,
    ) -> CuResult<()> {
        let gate = self.new_name();
        let entry = HostFunction { run: function, pending: PendingWrite::host_function() };
        self.state().host_functions.insert(gate, entry);
        let posted = self.vgpuHostFunction(gate, stream);
        if posted.is_err() {
            self.state().host_functions.remove(&gate);
        }
        posted
    }
}
