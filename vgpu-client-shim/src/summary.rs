//! `VGPU_LOG=summary`: where the time went, told when the program ends, and what to do about it.
//!
//! The client counts ([`Account`]); here the counts become a table and advice. Nothing is told of a device that was not
//! used, and nothing by a forked child, whose counts are its parent's.

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use client::{Account, Tally};

/// What is told of one device.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Number, name and place of the device.
    pub(crate) device: String,
    pub(crate) account: Account,
    /// What the network adapter has carried beside TCP, if the link is over verbs.
    pub(crate) verbs: Option<String>,
}

/// When this library was loaded, which for a program that is linked with it is its start.
static LOADED: OnceLock<Instant> = OnceLock::new();

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

extern "C" fn at_start() {
    LOADED.get_or_init(Instant::now);
}

/// How long the program has run.
pub(crate) fn run_time() -> Duration {
    LOADED.get().map(Instant::elapsed).unwrap_or_default()
}

/// The lines for a process that has used these devices; nothing if there is none.
pub(crate) fn text(process: u32, ran: Duration, entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries.iter().filter(|entry| entry.account.calls() > 0) {
        let mut line = |text: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "vgpu: {}", text.trim_end());
        };
        let account = &entry.account;
        let trips = account.all_round_trips();
        line(format!("summary of process {process}, {}", entry.device));
        line(format!(
            "  {} calls: {} posted, {} waited for an answer; waited {} in all, the program ran {} ({})",
            grouped(account.calls()),
            grouped(account.posted),
            grouped(trips.count),
            time(account.waited()),
            time(ran),
            share(account.waited(), ran)
        ));
        line(format!(
            "  to the device {} inside calls, {} beside them; from the device {} inside answers, {} landed",
            bytes(account.bytes_inside_calls()),
            bytes(account.staged_bytes),
            bytes(trips.received_bytes),
            bytes(account.landed_bytes)
        ));
        line(format!("  {} sends of {} in all", grouped(account.sends), bytes(account.bytes_sent)));
        if let Some(verbs) = &entry.verbs {
            line(format!("  {verbs}"));
        }
        line(format!("  {:<44} {:>10} {:>10} {:>10}", "waited for", "count", "time", "mean"));
        for (name, tally) in waits(account) {
            let (count, waited, mean) = (grouped(tally.count), time(tally.waited), time(tally.mean()));
            line(format!("  {name:<44} {count:>10} {waited:>10} {mean:>10}"));
        }
        for advice in advice(account, ran) {
            line(format!("  advice: {advice}"));
        }
    }
    out
}

/// What was waited for, the longest first.
fn waits(account: &Account) -> Vec<(&str, Tally)> {
    let beside = [
        ("bytes to land in pageable memory", account.landings),
        ("room to send pageable memory", account.room),
        ("the device to catch up with posted calls", account.backlog),
    ];
    let trips = account.round_trips.iter().map(|(name, tally)| (*name, *tally));
    let mut all: Vec<_> = trips.chain(beside).filter(|(_, tally)| tally.count > 0).collect();
    all.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.waited));
    all
}

/// What would save time, the most costly first.
fn advice(account: &Account, ran: Duration) -> Vec<String> {
    let trips = |name: &str| account.round_trips.get(name).copied().unwrap_or_default();
    let Tally { count: copies, largest_received: largest, .. } = account.small_copies;
    let size = if account.small_copies.received_bytes == copies * largest {
        format!("{largest}-byte")
    } else {
        format!("small (at most {largest} bytes)")
    };
    let (queries, event_queries) = (trips("cuStreamQuery"), trips("cuEventQuery"));
    let (memory, mapped) = (trips("cuMemGetInfo_v2"), trips("vgpuMemMap"));
    let modules = trips("cuModuleLoadData");
    let syncs = [trips("cuCtxSynchronize"), trips("cuStreamSynchronize"), trips("cuEventSynchronize")];
    let syncs = Tally {
        count: syncs.iter().map(|tally| tally.count).sum(),
        waited: syncs.iter().map(|tally| tally.waited).sum(),
        ..Tally::default()
    };
    let found = [
        (
            copies >= MANY,
            account.small_copies,
            format!("{} synchronous {size} DtoH copies took", grouped(copies)),
            "copy the values together, or use cudaMemcpyAsync into pinned memory",
        ),
        (
            queries.count >= MANY,
            queries,
            format!("cudaStreamQuery asked {} times in", grouped(queries.count)),
            "each is a round trip; wait with an event",
        ),
        (
            event_queries.count >= MANY,
            event_queries,
            format!("cudaEventQuery asked for {} recordings in", grouped(event_queries.count)),
            "the first question after a recording is a round trip; ask about fewer events",
        ),
        (
            memory.count >= MANY,
            memory,
            format!("cuMemGetInfo asked {} times in", grouped(memory.count)),
            "ask once and keep count, and allocate once instead of freeing and allocating again",
        ),
        (
            mapped.count >= MANY,
            mapped,
            format!("new device memory was mapped {} times in", grouped(mapped.count)),
            "allocate once at the start, or from a pool that keeps what is freed",
        ),
        (
            modules.count >= MANY || modules.sent_bytes >= 0x10_0000,
            modules,
            format!(
                "modules: {} loads with {} of images took",
                grouped(modules.count),
                bytes(modules.sent_bytes)
            ),
            "compile for the device's architecture only, and load once what is used",
        ),
        (
            account.landings.count > 0,
            account.landings,
            format!("pageable copies to the host above 64 KiB: {} waited", grouped(account.landings.count)),
            "use cudaHostAlloc and cudaMemcpyAsync",
        ),
        (
            account.room.count > 0,
            account.room,
            format!("pageable copies to the device waited {} times for room,", grouped(account.room.count)),
            "use cudaHostAlloc and cudaMemcpyAsync",
        ),
        (
            syncs.count >= MANY,
            syncs,
            format!("{} synchronizations took", grouped(syncs.count)),
            "the device's own work is in it; post more before waiting, and order work with streams and events",
        ),
    ];
    let mut worth: Vec<_> =
        found.into_iter().filter(|(holds, tally, ..)| *holds && tally.waited >= ran / NEGLIGIBLE).collect();
    worth.sort_by_key(|(_, tally, ..)| std::cmp::Reverse(tally.waited));
    worth.truncate(ADVICE_LINES);
    worth
        .into_iter()
        .map(|(_, tally, found, remedy)| format!("{found} {}: {remedy}", time(tally.waited)))
        .collect()
}

/// Calls of one kind that are no habit yet are not worth a line.
const MANY: u64 = 16;
/// A wait shorter than this part of the run is not worth a line.
const NEGLIGIBLE: u32 = 1000;
const ADVICE_LINES: usize = 5;

/// A number in groups of three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| str::from_utf8(group).unwrap_or("?")).collect();
    groups.join(",")
}

fn time(time: Duration) -> String {
    match time.as_nanos() {
        0..1_000_000 => format!("{:.1} us", time.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

fn bytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let number = bytes as f64;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{:.1} KiB", number / 1024.0),
        _ => format!("{:.1} MiB", number / f64::from(0x10_0000)),
    }
}

/// A part of the run. Threads wait at the same time, so it can be more than all of it.
fn share(part: Duration, whole: Duration) -> String {
    if whole.is_zero() {
        return "-".to_owned();
    }
    format!("{:.0}%", part.as_secs_f64() / whole.as_secs_f64() * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAN: Duration = Duration::from_secs(4);

    fn tally(count: u64, milliseconds: u64) -> Tally {
        Tally { count, waited: Duration::from_millis(milliseconds), ..Tally::default() }
    }

    /// An account with one kind of waits.
    fn trips(name: &'static str, tally: Tally) -> Account {
        Account { round_trips: [(name, tally)].into(), ..Account::default() }
    }

    #[test]
    fn each_advice_follows_from_its_numbers() {
        let small = Tally { received_bytes: 4 * 412, largest_received: 4, ..tally(412, 1900) };
        let mixed = Tally { received_bytes: 4 * 412, largest_received: 100, ..tally(412, 1900) };
        let images = Tally { sent_bytes: 3 << 20, ..tally(12, 250) };
        for (account, expected) in [
            (
                Account { small_copies: small, ..Account::default() },
                "412 synchronous 4-byte DtoH copies took 1.90 s: copy the values together, or use cudaMemcpyAsync into pinned memory",
            ),
            (
                Account { small_copies: mixed, ..Account::default() },
                "412 synchronous small (at most 100 bytes) DtoH copies took 1.90 s: copy",
            ),
            (
                trips("cuStreamQuery", tally(10_000, 800)),
                "cudaStreamQuery asked 10,000 times in 800.0 ms: each is a round trip; wait with an event",
            ),
            (trips("cuEventQuery", tally(16, 5)), "cudaEventQuery asked for 16 recordings in 5.0 ms: "),
            (trips("cuMemGetInfo_v2", tally(99, 5)), "cuMemGetInfo asked 99 times in 5.0 ms: ask once"),
            (trips("vgpuMemMap", tally(20, 60)), "new device memory was mapped 20 times in 60.0 ms: "),
            (
                trips("cuModuleLoadData", images),
                "modules: 12 loads with 3.0 MiB of images took 250.0 ms: compile for",
            ),
            (
                Account { landings: tally(1, 30), ..Account::default() },
                "pageable copies to the host above 64 KiB: 1 waited 30.0 ms: use cudaHostAlloc",
            ),
            (
                Account { room: tally(3, 30), ..Account::default() },
                "pageable copies to the device waited 3 times for room, 30.0 ms: use cudaHostAlloc",
            ),
            (trips("cuStreamSynchronize", tally(1000, 900)), "1,000 synchronizations took 900.0 ms: "),
        ] {
            let advice = advice(&account, RAN);
            assert_eq!(advice.len(), 1, "{advice:?}");
            assert!(advice[0].starts_with(expected), "{advice:?}\n{expected}");
        }
    }

    #[test]
    fn what_is_rare_or_short_gets_no_advice() {
        assert_eq!(advice(&trips("cuStreamQuery", tally(15, 900)), RAN), [] as [String; 0]);
        assert_eq!(advice(&trips("cuStreamQuery", tally(100, 3)), RAN), [] as [String; 0]);
        assert_eq!(advice(&trips("cuStreamQuery", tally(100, 4)), RAN).len(), 1);
    }

    #[test]
    fn five_lines_of_advice_and_the_most_costly_first() {
        let mut account = Account { landings: tally(1, 500), room: tally(1, 7), ..Account::default() };
        for (name, milliseconds) in
            [("cuStreamQuery", 400), ("cuMemGetInfo_v2", 600), ("cuModuleLoadData", 100), ("vgpuMemMap", 9)]
        {
            account.round_trips.insert(name, tally(50, milliseconds));
        }
        let found = advice(&account, RAN);
        let starts = ["cuMemGetInfo", "pageable", "cudaStreamQuery", "modules", "new device memory"];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        assert!(found.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{found:?}");
    }

    #[test]
    fn the_table_adds_up() {
        let mut account =
            trips("cuMemcpyDtoH_v2", Tally { sent_bytes: 512, received_bytes: 2048, ..tally(8, 600) });
        account.round_trips.insert("cuCtxSynchronize", tally(1, 1000));
        account.landings = tally(1, 400);
        account.posted = 1234;
        account.posted_bytes = 1024;
        account.landed_bytes = 5 << 20;
        let device = |account| Entry { device: "device 0".into(), account, verbs: None };
        let text = text(7, RAN, &[device(account), device(Account::default())]);
        let expected = "\
vgpu: summary of process 7, device 0
vgpu:   1,243 calls: 1,234 posted, 9 waited for an answer; waited 2.00 s in all, the program ran 4.00 s (50%)
vgpu:   to the device 1.5 KiB inside calls, 0 B beside them; from the device 2.0 KiB inside answers, 5.0 MiB landed
vgpu:   0 sends of 0 B in all
vgpu:   waited for                                        count       time       mean
vgpu:   cuCtxSynchronize                                      1     1.00 s     1.00 s
vgpu:   cuMemcpyDtoH_v2                                       8   600.0 ms    75.0 ms
vgpu:   bytes to land in pageable memory                      1   400.0 ms   400.0 ms
vgpu:   advice: pageable copies to the host above 64 KiB: 1 waited 400.0 ms: use cudaHostAlloc and cudaMemcpyAsync
";
        assert_eq!(text, expected);
    }

    #[test]
    fn without_a_used_device_nothing_is_said() {
        let unused = Entry { device: "device 0".into(), account: Account::default(), verbs: None };
        assert_eq!(text(7, RAN, &[unused]), "");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"].map(str::to_owned)
        );
        assert_eq!([1023, 1536, 3 << 19].map(bytes), ["1023 B", "1.5 KiB", "1.5 MiB"].map(str::to_owned));
    }
}
