//! Executable graphs: instantiating, launching, changing.

use std::ffi::{c_int, c_void};
use std::sync::Mutex;

use cuda_types::{CuError, CuResult};

use super::parameters::{HostParameters, KernelParameters, copy_1d, from_symbol, set, to_symbol};
use crate::config::config;
use crate::edge::{DefaultStream, Out, Required, entries, twins};
use crate::graph::capture;
use crate::graph::exec::{Difference, Exec, Plan, lock, objects};
use crate::graph::store;
use crate::graph::work::{Fill, Work};
use crate::handles::{EVENTS, resolve};
use crate::runtime::copy::Box3D;

/// `cudaErrorGraphExecUpdateFailure`
const UPDATE_FAILURE: CuError = CuError(910);

entries! {
    /// Makes an executable graph.
    fn cudaGraphInstantiate(exec: Out<'_, u64>, graph: u64, flags: u64) {
        instantiate(exec, graph, flags)
    }

    /// Makes an executable graph.
    fn cudaGraphInstantiateWithFlags(exec: Out<'_, u64>, graph: u64, flags: u64) {
        instantiate(exec, graph, flags)
    }

    /// Ends an executable graph; a launch under way goes on.
    fn cudaGraphExecDestroy(exec: u64) {
        Exec::destroy(exec)
    }

    /// A number that no graph and no other executable graph has.
    fn cudaGraphExecGetId(exec: u64, number: Out<'_, u32>) {
        let number = number.required()?;
        Exec::find(exec)?;
        number.write(store::id(exec));
        Ok(())
    }

    /// The flags that an executable graph was made with.
    fn cudaGraphExecGetFlags(exec: u64, flags: Out<'_, u64>) {
        flags.required()?.write(lock(&*Exec::find(exec)?).flags);
        Ok(())
    }

    /// Takes the parameters of a graph of the same shape.
    fn cudaGraphExecUpdate(exec: u64, graph: u64, info: Option<&mut UpdateInfo>) {
        let (exec, info) = (Exec::find(exec)?, info.required()?);
        let new = store::with(|store| {
            store.graph(graph)?;
            CuResult::Ok(Plan::new(store, graph).ok().zip(objects(store, graph).ok()))
        })?;
        let updated = match new {
            Some((plan, objects)) => lock(&exec).update(plan, objects),
            None => Err(Difference { result: Difference::ERROR, node: 0 }),
        };
        let Difference { result, node } = updated.err().unwrap_or(Difference { result: 0, node: 0 });
        *info = UpdateInfo { result, node, from: 0 };
        updated.map_err(|_| UPDATE_FAILURE)
    }

    /// Whether a node of an executable graph does its work.
    fn cudaGraphNodeGetEnabled(exec: u64, node: u64, enabled: Out<'_, u32>) {
        let found = lock(&*Exec::find(exec)?).step(node).map(|step| step.enabled)?;
        enabled.required()?.write(found.into());
        Ok(())
    }

    /// Has a launch, copy or set do its work or not.
    fn cudaGraphNodeSetEnabled(exec: u64, node: u64, enabled: u32) {
        let exec = Exec::find(exec)?;
        let mut exec = lock(&exec);
        let step = exec.step(node)?;
        // CUDA Runtime API, cudaGraphNodeSetEnabled: kernel, memset and memcpy nodes.
        if !matches!(step.work, Work::Kernel(_) | Work::Copy(_) | Work::Set(_)) {
            return Err(CuError::INVALID_VALUE);
        }
        step.enabled = enabled != 0;
        Ok(())
    }

    /// Changes a launch.
    fn cudaGraphExecKernelNodeSetParams(exec: u64, node: u64, parameters: Option<&KernelParameters>) {
        change(exec, node, parameters.required()?.work())
    }

    /// Changes a copy.
    fn cudaGraphExecMemcpyNodeSetParams(exec: u64, node: u64, parameters: Option<&Box3D>) {
        change(exec, node, Work::copy(*parameters.required()?))
    }

    /// Changes a copy to one of bytes in a row.
    fn cudaGraphExecMemcpyNodeSetParams1D(exec: u64, node: u64, dst: u64, src: u64, bytes: usize, kind: c_int) {
        change(exec, node, copy_1d(dst, src, bytes, kind))
    }

    /// Changes a copy to one to a variable.
    fn cudaGraphExecMemcpyNodeSetParamsToSymbol(exec: u64, node: u64, symbol: *const c_void, src: u64, bytes: usize, offset: usize, kind: c_int) {
        change(exec, node, to_symbol(symbol, src, bytes, offset, kind))
    }

    /// Changes a copy to one from a variable.
    fn cudaGraphExecMemcpyNodeSetParamsFromSymbol(exec: u64, node: u64, dst: u64, symbol: *const c_void, bytes: usize, offset: usize, kind: c_int) {
        change(exec, node, from_symbol(dst, symbol, bytes, offset, kind))
    }

    /// Changes a set.
    fn cudaGraphExecMemsetNodeSetParams(exec: u64, node: u64, parameters: Option<&Fill>) {
        change(exec, node, set(parameters.required()?))
    }

    /// Changes a host function.
    fn cudaGraphExecHostNodeSetParams(exec: u64, node: u64, parameters: Option<&HostParameters>) {
        change(exec, node, parameters.required()?.work())
    }

    /// Changes the event that a node records.
    fn cudaGraphExecEventRecordNodeSetEvent(exec: u64, node: u64, event: u64) {
        change(exec, node, EVENTS.get(event).map(|_| Work::RecordEvent(event)))
    }

    /// Changes the event that a node waits for.
    fn cudaGraphExecEventWaitNodeSetEvent(exec: u64, node: u64, event: u64) {
        change(exec, node, EVENTS.get(event).map(|_| Work::WaitEvent(event)))
    }

    /// Changes what a child graph node does, to a graph of the same shape.
    fn cudaGraphExecChildGraphNodeSetParams(exec: u64, node: u64, child: u64) {
        set_child(&*Exec::find(exec)?, node, child)
    }
}

twins! {
    /// Makes an executable graph, and says why not.
    fn cudaGraphInstantiateWithParams, cudaGraphInstantiateWithParams_ptsz(_default; exec: Out<'_, u64>, graph: u64, parameters: Option<&mut InstantiateParameters>) {
        let parameters = parameters.required()?;
        let made = instantiate(exec, graph, parameters.flags);
        parameters.error_node = 0;
        // cudaGraphInstantiate: success, invalid structure, not supported, or another error.
        parameters.result = match made {
            Ok(()) => 0,
            Err(CuError::INVALID_VALUE) => 2,
            Err(CuError::NOT_SUPPORTED) => 3,
            Err(_) => 1,
        };
        made
    }

    /// Prepares an executable graph for launches in the stream: nothing is missing.
    fn cudaGraphUpload, cudaGraphUpload_ptsz(default; exec: u64, stream: u64) {
        Exec::find(exec)?;
        resolve(default, stream)?.session.check()
    }

    /// Launches an executable graph; in a captured stream it becomes a child graph node.
    fn cudaGraphLaunch, cudaGraphLaunch_ptsz(default; exec: u64, stream: u64) {
        launch(default, exec, stream)
    }
}

/// `cudaGraphExecUpdateResultInfo`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct UpdateInfo {
    pub(crate) result: u32,
    pub(crate) node: u64,
    from: u64,
}

/// `cudaGraphInstantiateParams`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct InstantiateParameters {
    flags: u64,
    upload_stream: u64,
    error_node: u64,
    result: u32,
}

fn instantiate(exec: Out<'_, u64>, graph: u64, flags: u64) -> CuResult<()> {
    let exec = exec.required()?;
    exec.write(store::with(|store| Exec::instantiate(store, graph, flags))?);
    Ok(())
}

fn launch(default: DefaultStream, exec: u64, stream: u64) -> CuResult<()> {
    let exec = Exec::find(exec)?;
    let target = resolve(default, stream)?;
    let node = || {
        let plan = lock(&exec).plan.clone();
        store::with(|store| plan.into_graph(store)).map(Work::Child)
    };
    if capture::record(&target, node)? {
        return Ok(());
    }
    lock(&exec).launch(&target)?;
    if config().launch_blocking { target.session.cuStreamSynchronize(target.stream) } else { Ok(()) }
}

/// Gives a node of an executable graph other work, which may have been refused.
pub(crate) fn change(exec: u64, node: u64, work: CuResult<Work>) -> CuResult<()> {
    let exec = Exec::find(exec)?;
    lock(&exec).set_work(node, work?)
}

/// Changes what a child graph node does.
pub(super) fn set_child(exec: &Mutex<Exec>, node: u64, child: u64) -> CuResult<()> {
    let new = store::with(|store| Plan::new(store, child))?;
    let mut exec = lock(exec);
    let old = exec.step(node)?.child.as_mut().ok_or(CuError::INVALID_VALUE)?;
    if old.differs(&new).is_some() {
        return Err(CuError::INVALID_VALUE);
    }
    old.take(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!((size_of::<UpdateInfo>(), std::mem::offset_of!(UpdateInfo, node)), (24, 8));
        assert_eq!(size_of::<InstantiateParameters>(), 32);
        assert_eq!(std::mem::offset_of!(InstantiateParameters, result), 24);
    }
}
