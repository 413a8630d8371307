//! Kernels that are cut at their barriers: each is run as it is compiled, and with a coroutine for each thread (which
//! the checks of `VGPU_SOFT_CHECK` bring with them), on blocks of several shapes. Both must give what the closure says.

use std::ffi::CString;

use cuda_types::{CUdeviceptr, CUmodule, CUstream, CuError, Dim3};
use proto::{ContextCalls, Device, LaunchCalls, MemoryCalls, ModuleCalls};
use soft_gpu::{SoftGpu, SoftOptions};

const WINDOW_BYTES: u64 = 1 << 30;
const BYTES: u64 = 2 << 20;
const BLOCKS: u32 = 3;

/// The thread that a result is asked of.
#[derive(Clone, Copy)]
struct At {
    block: i32,
    thread: i32,
    x: i32,
    /// Threads of the block.
    threads: i32,
    n: i32,
}

struct Bench {
    gpu: SoftGpu,
    out: CUdeviceptr,
    modules: Vec<CUmodule>,
}

impl Bench {
    fn open(check: bool) -> Bench {
        let gpu = SoftGpu::open(0, SoftOptions { check, ..SoftOptions::default() }).expect("a software GPU");
        // Tests of one process share the address space.
        let base = (0..64)
            .map(|slot| 0x2200_0000_0000 + slot * WINDOW_BYTES)
            .find(|base| gpu.reserve_window(*base, WINDOW_BYTES).is_ok())
            .expect("room for a window");
        gpu.vgpuMemMap(base, BYTES).expect("memory");
        gpu.cuMemAlloc_v2(CUdeviceptr(base), BYTES).expect("the buffer");
        let texts = [include_str!("kernels/regions.ptx"), include_str!("kernels/registers.ptx")];
        let modules = texts.map(|text| gpu.cuModuleLoadData(vec![text.as_bytes()]).expect("it loads").0);
        Bench { gpu, out: CUdeviceptr(base), modules: modules.to_vec() }
    }

    fn launch(&self, kernel: &str, block: Dim3, out: u64, n: i32) -> Result<(), CuError> {
        let name = CString::new(kernel).expect("no NUL in a name");
        let function =
            self.modules.iter().find_map(|module| self.gpu.cuModuleGetFunction(*module, &name).ok());
        let mut arguments = out.to_le_bytes().to_vec();
        arguments.extend(n.to_le_bytes());
        let grid = Dim3 { x: BLOCKS, y: 1, z: 1 };
        self.gpu
            .cuLaunchKernel(
                function.expect("the kernel is there"),
                grid,
                block,
                0,
                CUstream::NULL,
                &arguments,
            )
            .expect("the launch is taken");
        self.gpu.cuCtxSynchronize()
    }

    fn run(&self, kernel: &str, block: Dim3, n: i32) -> Vec<i32> {
        self.gpu.cuMemsetD8Async(self.out, 0, BYTES, CUstream::NULL).expect("a memset");
        self.launch(kernel, block, self.out.0, n)
            .unwrap_or_else(|error| panic!("{kernel} on {block:?} with {n}: {error:?}"));
        let count = block.count() * u128::from(BLOCKS);
        let bytes = u64::try_from(count * 4).expect("a small block");
        let bytes = self.gpu.cuMemcpyDtoH_v2(self.out, bytes, CUstream::NULL).expect("a copy");
        let word = |word: &[u8]| i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        bytes.chunks_exact(4).map(word).collect()
    }
}

const SHAPES: [[u32; 3]; 7] =
    [[1, 1, 1], [31, 1, 1], [64, 1, 1], [256, 1, 1], [96, 2, 1], [16, 8, 2], [5, 7, 3]];
const WHOLE_WARPS: [[u32; 3]; 4] = [[64, 1, 1], [256, 1, 1], [32, 8, 1], [16, 8, 2]];

/// Runs a kernel both ways, on blocks of these shapes and with these numbers, and compares every thread's word.
fn holds(kernel: &str, shapes: &[[u32; 3]], numbers: &[i32], wanted: impl Fn(At) -> i32) {
    let benches = [("regions", Bench::open(false)), ("fibers", Bench::open(true))];
    for &[x, y, z] in shapes {
        let block = Dim3 { x, y, z };
        let threads = i32::try_from(block.count()).expect("a small block");
        for &n in numbers {
            for (way, bench) in &benches {
                for (index, found) in (0..).zip(bench.run(kernel, block, n)) {
                    let (block, thread) = if kernel_is_of_one_block(kernel) {
                        // All blocks write to the same place.
                        if index >= threads {
                            break;
                        }
                        (0, index)
                    } else {
                        (index / threads, index % threads)
                    };
                    let at = At { block, thread, x: thread % x.cast_signed(), threads, n };
                    let wanted = wanted(at);
                    assert_eq!(
                        found, wanted,
                        "{kernel} in {way}, block {x} x {y} x {z}, n = {n}: block {block}, thread {thread}"
                    );
                }
            }
        }
    }
}

/// Those of `registers.ptx` are written without blocks.
fn kernel_is_of_one_block(kernel: &str) -> bool {
    include_str!("kernels/registers.ptx").contains(&format!(".entry {kernel}("))
}

/// Memory that all threads of a block share, and what each of them does between two barriers.
fn all(threads: i32, value: impl Fn(i32) -> i32) -> Vec<i32> {
    (0..threads).map(value).collect()
}

fn neighbour(a: &[i32], thread: i32, distance: i32) -> i32 {
    let count = i32::try_from(a.len()).expect("a small block");
    a[usize::try_from((thread + distance).rem_euclid(count)).expect("not negative")]
}

fn of(a: &[i32], thread: i32) -> i32 {
    a[place(thread)]
}

fn place(thread: i32) -> usize {
    usize::try_from(thread).expect("not negative")
}

#[test]
fn a_barrier_in_a_loop_that_all_run_alike() {
    holds("tree", &SHAPES, &[0, 1, 2, 16, 32, 100, 512], |at| {
        let mut a: Vec<i32> = (0..2048)
            .map(|i| if i < 1024 { if i < at.threads { i * 3 + at.block } else { 0 } } else { i - 1024 })
            .collect();
        for i in at.threads..1024 {
            a[place(i) + 1024] = 0;
        }
        let mut s = at.n;
        while s > 0 {
            let before = a.clone();
            for t in 0..at.threads.min(s) {
                // Sums of one step do not meet, since a thread reads only beyond those that write.
                a[place(t)] += before[place(t + s)];
            }
            s >>= 1;
        }
        of(&a, at.thread)
    });
}

#[test]
fn threads_that_only_pass_are_left_out_and_no_others() {
    holds("bounds", &SHAPES, &[-7, -2, 0, 1, 3, 30, 31, 1000, i32::MAX - 6], |at| {
        let mut a = 0_i32;
        for k in at.n..at.n + 5 {
            a += i32::from(at.x <= k);
            a += 10 * i32::from(at.x.cast_unsigned() > k.cast_unsigned());
            a += 100 * i32::from(at.x >= k);
            a += 1000 * i32::from(k > at.x);
            a += 10_000 * i32::from(at.x == k);
            a += 100_000 * i32::from(at.x == k);
        }
        a
    });
    let flat = [[1, 1, 1], [40, 1, 1], [256, 1, 1]];
    holds("passing", &flat, &[-3, -1, 0, 1, 17, 255, 300], |at| {
        let (x, n) = (at.thread, at.n);
        let mut a = i32::from(x == n);
        // Compared without signs: nothing is above a negative number.
        a += 10 * i32::from(n.cast_unsigned() <= x.cast_unsigned());
        a += 100 * i32::from(n <= x);
        a += 1000;
        (n + 5).wrapping_mul(10_000).wrapping_add(a)
    });
}

#[test]
fn who_leaves_early_counts_as_arrived() {
    holds("early_exit", &SHAPES, &[1, 3, 20, 64, 200], |at| {
        if at.thread >= at.n {
            return -1;
        }
        // What a thread reads may be that of one who has left, and stays.
        let live = at.n.min(at.threads);
        let mut a = all(at.n.max(at.threads), |t| if t < at.threads { 7 } else { 0 });
        let mut gone = vec![false; usize::try_from(live).expect("positive")];
        let mut sum = vec![0; gone.len()];
        let mut result = vec![0; gone.len()];
        let mut s = 1;
        while s < 32 {
            for t in 0..live {
                if !gone[place(t)] {
                    a[place(t)] += s;
                }
            }
            for t in 0..live {
                let i = place(t);
                if !gone[i] && t > at.n / s {
                    gone[i] = true;
                    result[i] = sum[i] + s * 1000;
                } else if !gone[i] {
                    sum[i] += a[place((t + 1) % at.n)];
                }
            }
            s <<= 1;
        }
        let i = place(at.thread);
        if gone[i] { result[i] } else { sum[i] }
    });
    holds("leaves_loop_apart", &SHAPES, &[1, 2, 5, 9], |at| (0..=at.thread % at.n).sum());
    let flat = [[1, 1, 1], [64, 1, 1], [100, 1, 1]];
    holds("tail_shared", &flat, &[0, 1, 33, 64, 200], |at| if at.thread >= at.n { 5 } else { 8 + at.n });
}

#[test]
fn a_barrier_under_a_branch_that_all_take_alike() {
    let even = [[2, 1, 1], [64, 1, 1], [16, 8, 2]];
    holds("uniform_branch", &even, &[3, 6], |at| match (at.n, at.block) {
        (6.., _) => at.threads - 1 - at.thread + at.n,
        (_, 1) => (at.thread ^ 1) - at.n,
        _ => at.n,
    });
}

#[test]
fn barriers_on_both_sides_of_a_branch_match() {
    let even = [[2, 1, 1], [64, 1, 1], [96, 2, 1], [256, 1, 1]];
    holds("divergent", &even, &[1, 5], |at| {
        let t = at.thread;
        let odd = t % 2 == 1;
        let value = if odd { t * at.n + (t - 1) * at.n } else { t * at.n + 5 + (t + 1) * at.n };
        let next = (t + 1) % at.threads;
        value * 10 + if next % 2 == 1 { 1 } else { 2 }
    });
    holds("guarded_barrier", &[[128, 1, 1]], &[64], |at| {
        (if at.thread < 64 { 2 } else { 12 }) * 1000 + at.threads
    });
}

#[test]
fn a_loop_whose_count_is_data_but_the_same_for_all() {
    holds("data_count", &SHAPES, &[0, 1, 4, 9], |at| {
        let mut a = all(at.threads, |t| t);
        for _ in 0..at.n {
            let before = a.clone();
            a = all(at.threads, |t| of(&before, t).wrapping_add(neighbour(&before, t, 1)));
        }
        of(&a, at.thread)
    });
}

#[test]
fn what_a_loop_counts_differs_where_threads_leave_it_apart() {
    let steps = |t: i32, n: i32| {
        let (mut steps, mut value) = (0, t + 1);
        loop {
            steps += 1;
            value = if value & 1 == 1 { 3 * value + 1 } else { value / 2 };
            if value == 1 || steps >= n {
                return steps;
            }
        }
    };
    holds("counts_apart", &SHAPES, &[1, 10, 100], |at| {
        steps(at.thread, at.n) * 1000 + steps((at.thread + 1) % at.threads, at.n)
    });
    let flat = [[1, 1, 1], [64, 1, 1], [100, 1, 1]];
    holds("counted_apart", &flat, &[0, 9], |at| (at.thread.max(1) + 2) / 3 * 3 + at.n);
    holds("assigned_apart", &flat, &[0, 1, 33, 64], |at| if at.thread < at.n { 23 } else { 12 });
}

#[test]
fn shared_memory_is_read_behind_the_barrier_and_not_before() {
    holds("races", &SHAPES, &[0, 1, 7], |at| {
        let mut a = all(at.threads, |t| t);
        for _ in 0..at.n {
            let before = a.clone();
            a = all(at.threads, |t| {
                neighbour(&before, t, -1).wrapping_mul(3).wrapping_add(neighbour(&before, t, 1))
            });
        }
        of(&a, at.thread)
    });
}

#[test]
fn a_threads_own_memory_outlives_barriers() {
    holds("own_memory", &SHAPES, &[1, 3, 5], |at| {
        let own = |t: i32| all(16, |i| t * i);
        let brought = |t: i32| of(&own(t), (t + at.n) % 16);
        let mut mine = own(at.thread);
        mine[place((at.thread + at.n) % 16)] += brought((at.thread + 1) % at.threads);
        (0..16).map(|i| of(&mine, (i * at.n) & 15) * i).sum()
    });
    let flat = [[1, 1, 1], [64, 1, 1], [256, 1, 1]];
    holds("calls", &flat, &[0, 2, 9], |at| {
        let first = |t: i32| t + (t + at.n) % 8 * at.n;
        first(at.thread) + (at.thread + at.n + 1) % 8 * (at.n + 1) + first((at.thread + 3) % at.threads)
    });
}

#[test]
fn registers_of_every_type_live_over_barriers() {
    let flat = [[1, 1, 1], [64, 1, 1], [256, 1, 1]];
    holds("registers", &flat, &[0, 5, 77], |at| {
        let v = at.thread ^ at.n;
        let carry = i32::from(v >= 3);
        let mut guarded = if v > 5 { v + 100 } else { 3 };
        if v & 1 == 1 {
            guarded += 1000;
        }
        let wide = v.wrapping_mul(0x10001);
        let sum = wide.wrapping_add(3 * v).wrapping_add(guarded);
        sum.wrapping_add(carry * 1_000_000).wrapping_add(if v > 5 { 7_000_000 } else { 0 })
    });
}

#[test]
fn barriers_that_answer_and_barriers_of_parts() {
    holds("answers", &SHAPES, &[0, 3, 64, 1000], |at| {
        let count = (0..at.threads).filter(|t| t % 3 == 0).count();
        let all = (0..at.threads).all(|t| t < at.n);
        let any = (0..at.threads).any(|t| t == at.n);
        i32::try_from(count).expect("small") * 100 + i32::from(all) * 10 + i32::from(any)
    });
    holds("halves", &[[64, 1, 1], [256, 1, 1]], &[1, 4], |at| {
        let t = at.thread - at.threads / 2;
        if t < 0 { 0 } else { (0..at.n).map(|i| t + i).sum() }
    });
}

#[test]
fn warps_meet() {
    holds("warp_sums", &WHOLE_WARPS, &[0, 3], |at| (0..at.threads).map(|t| t * at.n + 1).sum());
    holds("scan", &WHOLE_WARPS, &[0, 3], |at| (0..=at.thread).map(|t| t % 7 + at.n).sum());
    holds("lanes_apart", &WHOLE_WARPS, &[0, 1, 5, 70], |at| {
        let lane = at.thread % 32;
        let first = at.thread - lane;
        let mut value: u32 = (0..32).filter(|l| l % 3 == at.n % 3).fold(0, |mask, l| mask | 1 << l);
        value = value.wrapping_add(0b1111 << (lane / 4 * 4));
        value = value.wrapping_add(31 * 16 + (first + 31).cast_unsigned());
        if lane < 12 {
            value = value.wrapping_add((first + (lane + 1) % 12).cast_unsigned()).wrapping_add(12_000);
        } else if lane & 1 == 1 {
            value ^= (12..32).filter(|l| l % 2 == 1 && *l > 20).fold(0, |mask, l| mask | 1 << l);
        }
        let any = (first..first + 32).contains(&at.n);
        value.wrapping_add(u32::from(any) * 3).cast_signed()
    });
}

#[test]
fn warps_that_count_on_lock_step_keep_in_step() {
    let pairs = [[64, 1, 1], [256, 1, 1], [32, 4, 2]];
    holds("lock_step_tree", &pairs, &[0, 3], |at| {
        let first = at.thread / 64 * 64;
        (first..first + 64).map(|t| t * at.n + 1).sum()
    });
    holds("lock_step_shift", &WHOLE_WARPS, &[0, 7], |at| {
        let first = at.thread / 32 * 32;
        first + (at.thread + 3) % 32 + at.n
    });
    holds("lock_step_owner", &WHOLE_WARPS, &[0, 7], |at| at.thread / 32 * 32 + 28 + at.thread % 4 + at.n);
    holds("lock_step_scan", &[[1, 1, 1], [64, 1, 1], [256, 1, 1], [16, 8, 2]], &[0, 7], |at| {
        (0..=at.thread).map(|t| t + at.n).sum()
    });
}

#[test]
fn rows_whose_ends_do_nothing() {
    holds("ragged", &SHAPES, &[0, 1, 5, 16, 100], |at| {
        let i = at.block * at.threads + at.thread;
        (if at.thread % 16 < at.n { i } else { 0 }) + if at.thread >= at.n { 1000 } else { 0 }
    });
}

#[test]
fn a_bad_address_behind_a_barrier_ends_the_grid() {
    let block = Dim3 { x: 64, y: 1, z: 1 };
    for kernel in ["tree", "races", "scan", "lock_step_scan", "registers"] {
        for (wrong, wanted) in [(0, CuError::ILLEGAL_ADDRESS), (2, CuError::MISALIGNED_ADDRESS)] {
            let bench = Bench::open(false);
            let out = if wrong == 0 { 0 } else { bench.out.0 + wrong };
            assert_eq!(bench.launch(kernel, block, out, 5), Err(wanted), "{kernel}");
        }
        // In the window, where nothing is mapped: the processor finds it.
        let bench = Bench::open(false);
        let end = bench.out.0 + WINDOW_BYTES;
        let error = bench.launch(kernel, block, end - 4 * 100, 5);
        assert_eq!(error, Err(CuError::ILLEGAL_ADDRESS), "{kernel}");
    }
}
