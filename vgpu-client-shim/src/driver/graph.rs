//! Graphs. They are the runtime's, node for node; what differs are the structures of kernel and copy nodes.

use std::ffi::{c_char, c_int, c_void};

use cuda_types::{CuError, CuResult};

use super::array::Copy3D;
use super::{as_the_runtime, context, entries, of_runtime};
use crate::edge::{Out, Required};
use crate::graph::work::Fill;
use crate::runtime::capture;
use crate::runtime::copy::Box3D;
use crate::runtime::graph::exec::{self, InstantiateParameters, UpdateInfo};
use crate::runtime::graph::generic::{self, NodeParameters};
use crate::runtime::graph::parameters::{AllocationParameters, HostParameters, KernelParameters};
use crate::runtime::graph::{Edge, nodes, object, topology};
use crate::runtime::stream::HostFunction;

as_the_runtime! {
    /// Makes an empty graph.
    fn cuGraphCreate(graph: Out<'_, u64>, flags: u32) = topology::cudaGraphCreate;
    /// Ends a graph.
    fn cuGraphDestroy(graph: u64) = topology::cudaGraphDestroy;
    /// Copies a graph.
    fn cuGraphClone(clone: Out<'_, u64>, graph: u64) = topology::cudaGraphClone;
    /// The node of a clone that was copied from a node.
    fn cuGraphNodeFindInClone(found: Out<'_, u64>, node: u64, clone: u64) = topology::cudaGraphNodeFindInClone;
    /// What kind of node it is.
    fn cuGraphNodeGetType(node: u64, kind: Out<'_, u32>) = topology::cudaGraphNodeGetType;
    /// The graph of a node.
    fn cuGraphNodeGetContainingGraph(node: u64, graph: Out<'_, u64>) = topology::cudaGraphNodeGetContainingGraph;
    /// A number of a graph.
    fn cuGraphGetId(graph: u64, number: Out<'_, u32>) = topology::cudaGraphGetId;
    /// A number of a node in its graph.
    fn cuGraphNodeGetLocalId(node: u64, number: Out<'_, u32>) = topology::cudaGraphNodeGetLocalId;
    /// A number of a node in the process.
    fn cuGraphNodeGetToolsId(node: u64, number: Out<'_, u64>) = topology::cudaGraphNodeGetToolsId;
    /// Takes a node out of its graph.
    fn cuGraphDestroyNode(node: u64) = topology::cudaGraphDestroyNode;
    /// The nodes of a graph.
    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: Option<&mut usize>) = topology::cudaGraphGetNodes;
    /// The nodes that wait for no other.
    fn cuGraphGetRootNodes(graph: u64, nodes: *mut u64, count: Option<&mut usize>) = topology::cudaGraphGetRootNodes;
    /// The edges of a graph.
    fn cuGraphGetEdges(graph: u64, from: *mut u64, to: *mut u64, count: Option<&mut usize>) = topology::edges_12;
    /// The edges of a graph, with their data.
    fn cuGraphGetEdges_v2(graph: u64, from: *mut u64, to: *mut u64, data: *mut Edge, count: Option<&mut usize>) = topology::edges_13;
    /// What a node waits for.
    fn cuGraphNodeGetDependencies(node: u64, nodes: *mut u64, count: Option<&mut usize>) = topology::dependencies_12;
    /// What a node waits for, with the data of the edges.
    fn cuGraphNodeGetDependencies_v2(node: u64, nodes: *mut u64, data: *mut Edge, count: Option<&mut usize>) = topology::dependencies_13;
    /// What waits for a node.
    fn cuGraphNodeGetDependentNodes(node: u64, nodes: *mut u64, count: Option<&mut usize>) = topology::dependents_12;
    /// What waits for a node, with the data of the edges.
    fn cuGraphNodeGetDependentNodes_v2(node: u64, nodes: *mut u64, data: *mut Edge, count: Option<&mut usize>) = topology::dependents_13;
    /// Lets nodes wait for others.
    fn cuGraphAddDependencies(graph: u64, from: *const u64, to: *const u64, count: usize) = topology::add_dependencies_12;
    /// Lets nodes wait for others.
    fn cuGraphAddDependencies_v2(graph: u64, from: *const u64, to: *const u64, data: *const Edge, count: usize) = topology::add_dependencies_13;
    /// Lets nodes no longer wait for others.
    fn cuGraphRemoveDependencies(graph: u64, from: *const u64, to: *const u64, count: usize) = topology::remove_dependencies_12;
    /// Lets nodes no longer wait for others.
    fn cuGraphRemoveDependencies_v2(graph: u64, from: *const u64, to: *const u64, data: *const Edge, count: usize) = topology::remove_dependencies_13;
    /// Writes a graph as a picture for Graphviz.
    fn cuGraphDebugDotPrint(graph: u64, path: *const c_char, flags: u32) = topology::cudaGraphDebugDotPrint;
    /// Adds a host function.
    fn cuGraphAddHostNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&HostParameters>) = nodes::cudaGraphAddHostNode;
    /// Adds a graph as a node.
    fn cuGraphAddChildGraphNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, child: u64) = nodes::cudaGraphAddChildGraphNode;
    /// Adds a node that does nothing.
    fn cuGraphAddEmptyNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize) = nodes::cudaGraphAddEmptyNode;
    /// Adds the recording of an event.
    fn cuGraphAddEventRecordNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, event: u64) = nodes::cudaGraphAddEventRecordNode;
    /// Adds waiting for an event.
    fn cuGraphAddEventWaitNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, event: u64) = nodes::cudaGraphAddEventWaitNode;
    /// Adds an allocation.
    fn cuGraphAddMemAllocNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&mut AllocationParameters>) = nodes::cudaGraphAddMemAllocNode;
    /// Adds a free.
    fn cuGraphAddMemFreeNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, address: u64) = nodes::cudaGraphAddMemFreeNode;
    /// What a set node has.
    fn cuGraphMemsetNodeGetParams(node: u64, parameters: Out<'_, Fill>) = nodes::cudaGraphMemsetNodeGetParams;
    /// Changes a set node.
    fn cuGraphMemsetNodeSetParams(node: u64, parameters: Option<&Fill>) = nodes::cudaGraphMemsetNodeSetParams;
    /// What a host node has.
    fn cuGraphHostNodeGetParams(node: u64, parameters: Out<'_, HostParameters>) = nodes::cudaGraphHostNodeGetParams;
    /// Changes a host node.
    fn cuGraphHostNodeSetParams(node: u64, parameters: Option<&HostParameters>) = nodes::cudaGraphHostNodeSetParams;
    /// The graph of a child node.
    fn cuGraphChildGraphNodeGetGraph(node: u64, graph: Out<'_, u64>) = nodes::cudaGraphChildGraphNodeGetGraph;
    /// The event of a node.
    fn cuGraphEventRecordNodeGetEvent(node: u64, event: Out<'_, u64>) = nodes::cudaGraphEventRecordNodeGetEvent;
    /// Changes the event of a node.
    fn cuGraphEventRecordNodeSetEvent(node: u64, event: u64) = nodes::cudaGraphEventRecordNodeSetEvent;
    /// The event of a node.
    fn cuGraphEventWaitNodeGetEvent(node: u64, event: Out<'_, u64>) = nodes::cudaGraphEventWaitNodeGetEvent;
    /// Changes the event of a node.
    fn cuGraphEventWaitNodeSetEvent(node: u64, event: u64) = nodes::cudaGraphEventWaitNodeSetEvent;
    /// What an allocation node has.
    fn cuGraphMemAllocNodeGetParams(node: u64, parameters: Out<'_, AllocationParameters>) = nodes::cudaGraphMemAllocNodeGetParams;
    /// What a free node has.
    fn cuGraphMemFreeNodeGetParams(node: u64, address: Out<'_, u64>) = nodes::cudaGraphMemFreeNodeGetParams;
    /// Sets an attribute of a kernel node.
    fn cuGraphKernelNodeSetAttribute(node: u64, attribute: u32, value: Option<&[u32; 16]>) = nodes::cudaGraphKernelNodeSetAttribute;
    /// An attribute of a kernel node.
    fn cuGraphKernelNodeGetAttribute(node: u64, attribute: u32, value: Out<'_, [u32; 16]>) = nodes::cudaGraphKernelNodeGetAttribute;
    /// Copies the attributes of a kernel node to another.
    fn cuGraphKernelNodeCopyAttributes(dst: u64, src: u64) = nodes::copy_attributes_13;
    /// Makes a graph that can be launched.
    fn cuGraphInstantiateWithFlags(exec: Out<'_, u64>, graph: u64, flags: u64) = exec::cudaGraphInstantiateWithFlags;
    /// Makes a graph that can be launched.
    fn cuGraphInstantiateWithParams(exec: Out<'_, u64>, graph: u64, parameters: Option<&mut InstantiateParameters>) = exec::cudaGraphInstantiateWithParams;
    /// Makes a graph that can be launched.
    fn cuGraphInstantiateWithParams_ptsz(exec: Out<'_, u64>, graph: u64, parameters: Option<&mut InstantiateParameters>) = exec::cudaGraphInstantiateWithParams_ptsz;
    /// Ends it.
    fn cuGraphExecDestroy(exec: u64) = exec::cudaGraphExecDestroy;
    /// A number of it.
    fn cuGraphExecGetId(exec: u64, number: Out<'_, u32>) = exec::cudaGraphExecGetId;
    /// The flags that it was made with.
    fn cuGraphExecGetFlags(exec: u64, flags: Out<'_, u64>) = exec::cudaGraphExecGetFlags;
    /// Takes over what has changed in a graph of the same shape.
    fn cuGraphExecUpdate_v2(exec: u64, graph: u64, info: Option<&mut UpdateInfo>) = exec::cudaGraphExecUpdate;
    /// Whether a node runs.
    fn cuGraphNodeGetEnabled(exec: u64, node: u64, enabled: Out<'_, u32>) = exec::cudaGraphNodeGetEnabled;
    /// Lets a node run or not.
    fn cuGraphNodeSetEnabled(exec: u64, node: u64, enabled: u32) = exec::cudaGraphNodeSetEnabled;
    /// Changes a host node.
    fn cuGraphExecHostNodeSetParams(exec: u64, node: u64, parameters: Option<&HostParameters>) = exec::cudaGraphExecHostNodeSetParams;
    /// Changes the event of a node.
    fn cuGraphExecEventRecordNodeSetEvent(exec: u64, node: u64, event: u64) = exec::cudaGraphExecEventRecordNodeSetEvent;
    /// Changes the event of a node.
    fn cuGraphExecEventWaitNodeSetEvent(exec: u64, node: u64, event: u64) = exec::cudaGraphExecEventWaitNodeSetEvent;
    /// Changes the graph of a child node.
    fn cuGraphExecChildGraphNodeSetParams(exec: u64, node: u64, child: u64) = exec::cudaGraphExecChildGraphNodeSetParams;
    /// Brings a graph to its device: it is sent when it is launched.
    fn cuGraphUpload(exec: u64, stream: u64) = exec::cudaGraphUpload;
    /// Brings a graph to its device.
    fn cuGraphUpload_ptsz(exec: u64, stream: u64) = exec::cudaGraphUpload_ptsz;
    /// Launches a graph.
    fn cuGraphLaunch(exec: u64, stream: u64) = exec::cudaGraphLaunch;
    /// Launches a graph.
    fn cuGraphLaunch_ptsz(exec: u64, stream: u64) = exec::cudaGraphLaunch_ptsz;
    /// Counts references to something of the program.
    fn cuUserObjectCreate(object: Out<'_, u64>, data: *mut c_void, destroy: Option<HostFunction>, count: u32, flags: u32) = object::cudaUserObjectCreate;
    /// Counts more references.
    fn cuUserObjectRetain(object: u64, count: u32) = object::cudaUserObjectRetain;
    /// Counts fewer references.
    fn cuUserObjectRelease(object: u64, count: u32) = object::cudaUserObjectRelease;
    /// Gives references to a graph.
    fn cuGraphRetainUserObject(graph: u64, object: u64, count: u32, flags: u32) = object::cudaGraphRetainUserObject;
    /// Takes references from a graph.
    fn cuGraphReleaseUserObject(graph: u64, object: u64, count: u32) = object::cudaGraphReleaseUserObject;
    /// What the memory of graphs takes.
    fn cuDeviceGetGraphMemAttribute(device: c_int, attribute: c_int, value: Out<'_, u64>) = object::cudaDeviceGetGraphMemAttribute;
    /// Resets what the memory of graphs took at most.
    fn cuDeviceSetGraphMemAttribute(device: c_int, attribute: c_int, value: Option<&u64>) = object::cudaDeviceSetGraphMemAttribute;
    /// Gives unused memory of graphs back.
    fn cuDeviceGraphMemTrim(device: c_int) = object::cudaDeviceGraphMemTrim;
    /// Begins to capture into a graph.
    fn cuStreamBeginCaptureToGraph(stream: u64, graph: u64, dependencies: *const u64, edges: *const Edge, count: usize, mode: u32) = capture::cudaStreamBeginCaptureToGraph;
    /// Begins to capture into a graph.
    fn cuStreamBeginCaptureToGraph_ptsz(stream: u64, graph: u64, dependencies: *const u64, edges: *const Edge, count: usize, mode: u32) = capture::cudaStreamBeginCaptureToGraph_ptsz;
    /// What is known about a capture.
    fn cuStreamGetCaptureInfo(stream: u64, status: Out<'_, u32>, id: Out<'_, u64>) = capture::info_1;
    /// What is known about a capture.
    fn cuStreamGetCaptureInfo_ptsz(stream: u64, status: Out<'_, u32>, id: Out<'_, u64>) = capture::info_1_ptsz;
    /// What is known about a capture.
    fn cuStreamGetCaptureInfo_v2(stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>, dependencies: Out<'_, *const u64>, count: Out<'_, usize>) = capture::info_2;
    /// What is known about a capture.
    fn cuStreamGetCaptureInfo_v2_ptsz(stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>, dependencies: Out<'_, *const u64>, count: Out<'_, usize>) = capture::info_2_ptsz;
    /// What is known about a capture.
    fn cuStreamGetCaptureInfo_v3(stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>, dependencies: Out<'_, *const u64>, edges: Out<'_, *const Edge>, count: Out<'_, usize>) = capture::info_3;
    /// What is known about a capture.
    fn cuStreamGetCaptureInfo_v3_ptsz(stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>, dependencies: Out<'_, *const u64>, edges: Out<'_, *const Edge>, count: Out<'_, usize>) = capture::info_3_ptsz;
    /// Changes what captured work waits for.
    fn cuStreamUpdateCaptureDependencies(stream: u64, dependencies: *const u64, count: usize, flags: u32) = capture::update_1;
    /// Changes what captured work waits for.
    fn cuStreamUpdateCaptureDependencies_ptsz(stream: u64, dependencies: *const u64, count: usize, flags: u32) = capture::update_1_ptsz;
    /// Changes what captured work waits for.
    fn cuStreamUpdateCaptureDependencies_v2(stream: u64, dependencies: *const u64, edges: *const Edge, count: usize, flags: u32) = capture::update_2;
    /// Changes what captured work waits for.
    fn cuStreamUpdateCaptureDependencies_v2_ptsz(stream: u64, dependencies: *const u64, edges: *const Edge, count: usize, flags: u32) = capture::update_2_ptsz;
}

entries! {
    /// Begins to capture, with the rules that hold for every thread.
    fn cuStreamBeginCapture(stream: u64) {
        context::current()?;
        of_runtime(|| capture::cudaStreamBeginCapture(stream, 0))
    }

    /// Begins to capture, with the rules that hold for every thread.
    fn cuStreamBeginCapture_ptsz(stream: u64) {
        context::current()?;
        of_runtime(|| capture::cudaStreamBeginCapture_ptsz(stream, 0))
    }

    /// Adds a launch.
    fn cuGraphAddKernelNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&KernelParameters>) {
        context::current()?;
        of_runtime(|| nodes::cudaGraphAddKernelNode(node, graph, after, count, parameters))
    }

    /// Adds a launch.
    fn cuGraphAddKernelNode_v2(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&LaterKernelParameters>) {
        context::current()?;
        let parameters = parameters.required()?.plain()?;
        of_runtime(|| nodes::cudaGraphAddKernelNode(node, graph, after, count, Some(&parameters)))
    }

    /// What a kernel node has.
    fn cuGraphKernelNodeGetParams(node: u64, parameters: Out<'_, KernelParameters>) {
        context::current()?;
        of_runtime(|| nodes::cudaGraphKernelNodeGetParams(node, parameters))
    }

    /// What a kernel node has.
    fn cuGraphKernelNodeGetParams_v2(node: u64, parameters: Out<'_, LaterKernelParameters>) {
        let parameters = parameters.required()?;
        context::current()?;
        parameters.write(LaterKernelParameters { plain: nodes::kernel_parameters(node)?, kernel: 0, context: 0 });
        Ok(())
    }

    /// Changes a kernel node.
    fn cuGraphKernelNodeSetParams(node: u64, parameters: Option<&KernelParameters>) {
        context::current()?;
        of_runtime(|| nodes::cudaGraphKernelNodeSetParams(node, parameters))
    }

    /// Changes a kernel node.
    fn cuGraphKernelNodeSetParams_v2(node: u64, parameters: Option<&LaterKernelParameters>) {
        context::current()?;
        let parameters = parameters.required()?.plain()?;
        of_runtime(|| nodes::cudaGraphKernelNodeSetParams(node, Some(&parameters)))
    }

    /// Changes a kernel node of an executable graph.
    fn cuGraphExecKernelNodeSetParams(exec: u64, node: u64, parameters: Option<&KernelParameters>) {
        context::current()?;
        of_runtime(|| exec::cudaGraphExecKernelNodeSetParams(exec, node, parameters))
    }

    /// Changes a kernel node of an executable graph.
    fn cuGraphExecKernelNodeSetParams_v2(exec: u64, node: u64, parameters: Option<&LaterKernelParameters>) {
        context::current()?;
        let parameters = parameters.required()?.plain()?;
        of_runtime(|| exec::cudaGraphExecKernelNodeSetParams(exec, node, Some(&parameters)))
    }

    /// Adds a copy, for the device of a context.
    fn cuGraphAddMemcpyNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, copy: Option<&Copy3D>, handle: u64) {
        in_context(handle)?;
        let copy = copy.required()?.as_box()?;
        of_runtime(|| nodes::cudaGraphAddMemcpyNode(node, graph, after, count, Some(&copy)))
    }

    /// What a copy node has.
    fn cuGraphMemcpyNodeGetParams(node: u64, copy: Out<'_, Copy3D>) {
        let copy = copy.required()?;
        context::current()?;
        let mut found = std::mem::MaybeUninit::<Box3D>::uninit();
        of_runtime(|| nodes::cudaGraphMemcpyNodeGetParams(node, Some(&mut found)))?;
        // SAFETY: written on success.
        copy.write(Copy3D::of_box(unsafe { found.assume_init_ref() })?);
        Ok(())
    }

    /// Changes a copy node.
    fn cuGraphMemcpyNodeSetParams(node: u64, copy: Option<&Copy3D>) {
        context::current()?;
        let copy = copy.required()?.as_box()?;
        of_runtime(|| nodes::cudaGraphMemcpyNodeSetParams(node, Some(&copy)))
    }

    /// Changes a copy node of an executable graph.
    fn cuGraphExecMemcpyNodeSetParams(exec: u64, node: u64, copy: Option<&Copy3D>, handle: u64) {
        in_context(handle)?;
        let copy = copy.required()?.as_box()?;
        of_runtime(|| exec::cudaGraphExecMemcpyNodeSetParams(exec, node, Some(&copy)))
    }

    /// Adds a set, for the device of a context.
    fn cuGraphAddMemsetNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&Fill>, handle: u64) {
        in_context(handle)?;
        of_runtime(|| nodes::cudaGraphAddMemsetNode(node, graph, after, count, parameters))
    }

    /// Changes a set node of an executable graph.
    fn cuGraphExecMemsetNodeSetParams(exec: u64, node: u64, parameters: Option<&Fill>, handle: u64) {
        in_context(handle)?;
        of_runtime(|| exec::cudaGraphExecMemsetNodeSetParams(exec, node, parameters))
    }

    /// Makes a graph that can be launched; what was wrong with which node is not told.
    fn cuGraphInstantiate(exec: Out<'_, u64>, graph: u64, node: Option<&mut u64>, log: *mut c_char, room: usize) {
        instantiate(exec, graph, node, log, room)
    }

    /// Makes a graph that can be launched; what was wrong with which node is not told.
    fn cuGraphInstantiate_v2(exec: Out<'_, u64>, graph: u64, node: Option<&mut u64>, log: *mut c_char, room: usize) {
        instantiate(exec, graph, node, log, room)
    }

    /// Takes over what has changed in a graph of the same shape.
    fn cuGraphExecUpdate(exec: u64, graph: u64, node: Option<&mut u64>, result: Option<&mut u32>) {
        context::current()?;
        let mut info = UpdateInfo::default();
        let outcome = of_runtime(|| exec::cudaGraphExecUpdate(exec, graph, Some(&mut info)));
        if let Some(node) = node {
            *node = info.node;
        }
        if let Some(result) = result {
            *result = info.result;
        }
        outcome
    }

    /// Makes the value of a conditional node, for the device of a context.
    fn cuGraphConditionalHandleCreate(handle: Out<'_, u64>, graph: u64, context: u64, default: u32, flags: u32) {
        in_context(context)?;
        of_runtime(|| generic::cudaGraphConditionalHandleCreate(handle, graph, default, flags))
    }

    /// Adds a node of any kind.
    fn cuGraphAddNode(node: Out<'_, u64>, graph: u64, after: *const u64, count: usize, parameters: Option<&mut Words>) {
        with_any(parameters, |any| generic::add_node_12(node, graph, after, count, any))
    }

    /// Adds a node of any kind with the data of its edges.
    fn cuGraphAddNode_v2(node: Out<'_, u64>, graph: u64, after: *const u64, edges: *const Edge, count: usize, parameters: Option<&mut Words>) {
        with_any(parameters, |any| generic::add_node_13(node, graph, after, edges, count, any))
    }

    /// Adds a node of any kind with the data of its edges.
    fn cuGraphAddNode_v3(node: Out<'_, u64>, graph: u64, after: *const u64, edges: *const Edge, count: usize, parameters: Option<&mut Words>) {
        with_any(parameters, |any| generic::add_node_13(node, graph, after, edges, count, any))
    }

    /// Changes a node of any kind.
    fn cuGraphNodeSetParams(node: u64, parameters: Option<&mut Words>) {
        with_any(parameters, |any| generic::cudaGraphNodeSetParams(node, any))
    }

    /// Changes a node of any kind.
    fn cuGraphNodeSetParams_v2(node: u64, parameters: Option<&mut Words>) {
        with_any(parameters, |any| generic::cudaGraphNodeSetParams(node, any))
    }

    /// Changes a node of any kind in an executable graph.
    fn cuGraphExecNodeSetParams(exec: u64, node: u64, parameters: Option<&mut Words>) {
        with_any(parameters, |any| generic::cudaGraphExecNodeSetParams(exec, node, any))
    }

    /// The parameters of a node of any kind.
    fn cuGraphNodeGetParams(node: u64, parameters: Out<'_, Words>) {
        let parameters = parameters.required()?;
        context::current()?;
        let mut found = Words([0; 32]);
        // SAFETY: room for the structure, which has this size.
        let room = unsafe { &mut *(&raw mut found).cast::<std::mem::MaybeUninit<NodeParameters>>() };
        of_runtime(|| generic::cudaGraphNodeGetParams(node, Some(room)))?;
        match found.kind() {
            KERNEL => found.0[PAYLOAD + KERNEL_AT..PAYLOAD + KERNEL_AT + 2].fill(0),
            COPY => {
                // SAFETY: the kind says that a copy lies there.
                let copy = unsafe { found.0[COPY_AT..].as_ptr().cast::<Box3D>().read() };
                let copy = Copy3D::of_box(&copy)?;
                // SAFETY: both are words, and there is room for 25 of them.
                unsafe { found.0[COPY_AT..].as_mut_ptr().cast::<Copy3D>().write(copy) };
            }
            _ => {}
        }
        parameters.write(found);
        Ok(())
    }
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaterKernelParameters {
    plain: KernelParameters,
    /// In the place of the function, if that is NULL.
    kernel: u64,
    context: u64,
}

impl LaterKernelParameters {
    fn plain(&self) -> CuResult<KernelParameters> {
        in_context(self.context)?;
        let mut plain = self.plain;
        if plain.function.is_null() {
            let kernel = usize::try_from(self.kernel).map_err(|_| CuError::INVALID_HANDLE)?;
            plain.function = std::ptr::without_provenance(kernel);
        }
        Ok(plain)
    }
}

/// `CUgraphNodeParams`: a kind, and what belongs to it from the third word on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words([u64; 32]);

/// Where the structure of a kind begins.
const PAYLOAD: usize = 2;
/// `CU_GRAPH_NODE_TYPE_KERNEL`; kernel and context behind what the runtime has.
const KERNEL: u64 = 0;
const KERNEL_AT: usize = 7;
/// `CU_GRAPH_NODE_TYPE_MEMCPY`; its box lies behind flags and context.
const COPY: u64 = 1;
const COPY_AT: usize = PAYLOAD + 2;
/// `CU_GRAPH_NODE_TYPE_MEMSET`, `CU_GRAPH_NODE_TYPE_CONDITIONAL`
const SET: u64 = 2;
const CONDITIONAL: u64 = 13;

impl Words {
    fn kind(&self) -> u64 {
        self.0[0] & 0xffff_ffff
    }

    /// The context that the node is to run in; NULL is this thread's. Values of streams are read with theirs elsewhere.
    fn context(&self) -> u64 {
        match self.kind() {
            KERNEL => self.0[PAYLOAD + KERNEL_AT + 1],
            COPY => self.0[PAYLOAD + 1],
            SET => self.0[PAYLOAD + 5],
            CONDITIONAL => self.0[PAYLOAD + 3],
            _ => 0,
        }
    }
}

/// Hands parameters to a call of the runtime as it has them; what it answers in them goes back.
fn with_any(parameters: Option<&mut Words>, call: impl FnOnce(*mut NodeParameters) -> u32) -> CuResult<()> {
    let parameters = parameters.required()?;
    in_context(parameters.context())?;
    let mut lowered = *parameters;
    match lowered.kind() {
        KERNEL => {
            if lowered.0[PAYLOAD] == 0 {
                lowered.0[PAYLOAD] = lowered.0[PAYLOAD + KERNEL_AT];
            }
            lowered.0[PAYLOAD + KERNEL_AT..].fill(0);
        }
        COPY => {
            // SAFETY: the kind says that a copy lies there.
            let copy = unsafe { lowered.0[COPY_AT..].as_ptr().cast::<Copy3D>().read() }.as_box()?;
            lowered.0[PAYLOAD..].fill(0);
            // SAFETY: the runtime's box has the place of the driver's, and is shorter.
            unsafe { lowered.0[COPY_AT..].as_mut_ptr().cast::<Box3D>().write(copy) };
        }
        _ => {}
    }
    of_runtime(|| call((&raw mut lowered).cast()))?;
    if !matches!(lowered.kind(), KERNEL | COPY) {
        *parameters = lowered;
    }
    Ok(())
}

/// Nodes run on the device of this thread's context, so another one can only be named where it is on the same device.
fn in_context(handle: u64) -> CuResult<()> {
    let current = context::current()?;
    if handle == 0 || context::find(handle)?.ordinal == current.ordinal {
        return Ok(());
    }
    crate::log::warn(format_args!("graph nodes for another context than the thread's are not supported"));
    Err(CuError::NOT_SUPPORTED)
}

fn instantiate(
    exec: Out<'_, u64>,
    graph: u64,
    node: Option<&mut u64>,
    log: *mut c_char,
    room: usize,
) -> CuResult<()> {
    context::current()?;
    of_runtime(|| exec::cudaGraphInstantiateWithFlags(exec, graph, 0))?;
    if let Some(node) = node {
        *node = 0;
    }
    if !log.is_null() && room > 0 {
        // SAFETY: the caller's buffer has `room` bytes (module doc of `edge`).
        unsafe { log.write(0) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_layout_of_the_header() {
        assert_eq!(size_of::<LaterKernelParameters>(), 72);
        assert_eq!(std::mem::offset_of!(LaterKernelParameters, kernel), 56);
        assert_eq!((size_of::<Words>(), size_of::<NodeParameters>()), (256, 256));
        assert!(size_of::<Box3D>() <= size_of::<Copy3D>() && COPY_AT * 8 + size_of::<Copy3D>() <= 256);
    }
}
