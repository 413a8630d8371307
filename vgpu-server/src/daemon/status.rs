//! What is known of the device without opening it: which clients have workers, and what these use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::handshake::{ClientStatus, STATUS_CLIENTS, STATUS_NAME, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::worker::usage::Report;

/// The clients that have a worker.
#[derive(Debug)]
pub(crate) struct Clients {
    total_memory: u64,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    next: u64,
    clients: BTreeMap<u64, Arc<Client>>,
}

#[derive(Debug)]
struct Client {
    name: String,
    peer: String,
    since: Instant,
    worker: tokio::sync::Mutex<Questions>,
}

/// The socket to a worker, and the last question.
#[derive(Debug)]
struct Questions {
    socket: UnixStream,
    last: u8,
}

/// While it lives, the client counts as present.
pub(crate) struct Presence {
    clients: Arc<Clients>,
    number: u64,
}

/// Workers answer at once; one that does not is stopped, or its machine is at its limits.
const PATIENCE: Duration = Duration::from_millis(200);

impl Clients {
    pub(crate) fn new(total_memory: u64) -> Arc<Clients> {
        Arc::new(Clients { total_memory, present: Mutex::default() })
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has a worker from now on, which is asked over `socket`.
    pub(crate) fn add(self: &Arc<Self>, name: &str, peer: &str, socket: UnixStream) -> Presence {
        let worker = tokio::sync::Mutex::new(Questions { socket, last: 0 });
        let client = Client { name: name.to_owned(), peer: peer.to_owned(), since: Instant::now(), worker };
        let mut present = self.present();
        let number = present.next;
        present.next += 1;
        present.clients.insert(number, Arc::new(client));
        Presence { clients: Arc::clone(self), number }
    }

    /// Asks all workers.
    pub(crate) async fn status(&self) -> Status {
        let clients: Vec<Arc<Client>> = self.present().clients.values().cloned().collect();
        let mut used_bytes = Some(0_u64);
        let mut utilization_percent = Some(0);
        let mut told = Vec::new();
        for client in clients {
            let report = client.report().await;
            used_bytes = used_bytes.zip(report).map(|(sum, report)| sum.saturating_add(report.used_bytes));
            let percent = report.and_then(|report| report.busy_percent);
            utilization_percent = utilization_percent.zip(percent).map(|(most, percent)| most.max(percent));
            if told.len() < STATUS_CLIENTS {
                told.push(client.status(report));
            }
        }
        Status { total_memory: self.total_memory, used_bytes, utilization_percent, clients: told }
    }
}

impl Client {
    async fn report(&self) -> Option<Report> {
        tokio::time::timeout(PATIENCE, async { self.worker.lock().await.ask().await }).await.ok().flatten()
    }

    fn status(&self, report: Option<Report>) -> ClientStatus {
        ClientStatus {
            name: self.name.chars().take(STATUS_NAME).collect(),
            peer: self.peer.clone(),
            process: process(&self.name),
            seconds: self.since.elapsed().as_secs(),
            used_bytes: report.map(|report| report.used_bytes),
        }
    }
}

impl Questions {
    /// `None` if the worker has ended. May be given up at any time: an answer that comes late is passed over.
    async fn ask(&mut self) -> Option<Report> {
        self.last = self.last.wrapping_add(1);
        self.socket.write_all(&[self.last]).await.ok()?;
        loop {
            let mut bytes = [0; Report::SIZE];
            self.socket.read_exact(&mut bytes).await.ok()?;
            let (question, report) = Report::decode(&bytes);
            if question == self.last {
                return Some(report);
            }
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.clients.present().clients.remove(&self.number);
    }
}

/// The process in a name such as `train[1234]@host`.
fn process(name: &str) -> Option<u32> {
    let (before, _) = name.rsplit_once("]@")?;
    before.rsplit_once('[')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_read_from_the_name() {
        assert_eq!(process("train[1234]@host"), Some(1234));
        assert_eq!(process("a[1]@b[22]@host"), Some(22));
        assert_eq!(process("by hand"), None);
        assert_eq!(process("x[y]@host"), None);
    }

    /// A client whose worker answers this, or not at all.
    fn worker(clients: &Arc<Clients>, name: &str, report: Option<Report>) -> (Presence, Option<UnixStream>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let presence = clients.add(name, "peer", near);
        let Some(report) = report else { return (presence, Some(far)) };
        tokio::spawn(async move {
            let mut question = [0];
            while far.read_exact(&mut question).await.is_ok() {
                // An answer to an older question comes first.
                let late = Report { used_bytes: 1, busy_percent: None }.encode(question[0].wrapping_sub(1));
                far.write_all(&late).await.unwrap();
                far.write_all(&report.encode(question[0])).await.unwrap();
            }
        });
        (presence, None)
    }

    #[tokio::test]
    async fn clients_are_summed_and_what_one_does_not_tell_is_unknown() {
        let clients = Clients::new(1000);
        assert_eq!(
            clients.status().await,
            Status {
                total_memory: 1000,
                used_bytes: Some(0),
                utilization_percent: Some(0),
                clients: Vec::new()
            }
        );
        let one = Report { used_bytes: 100, busy_percent: Some(30) };
        let _one = worker(&clients, "one[7]@host", Some(one));
        let two = worker(&clients, "two", Some(Report { used_bytes: 50, busy_percent: Some(80) }));
        let status = clients.status().await;
        assert_eq!((status.used_bytes, status.utilization_percent), (Some(150), Some(80)));
        let first = &status.clients[0];
        assert_eq!((first.process, first.used_bytes), (Some(7), Some(100)));
        drop(two);
        assert_eq!(clients.status().await.used_bytes, Some(100));
        let _launched = worker(&clients, "three", Some(Report { used_bytes: 1, busy_percent: None }));
        let status = clients.status().await;
        assert_eq!((status.used_bytes, status.utilization_percent), (Some(101), None));
        let _silent = worker(&clients, &"x".repeat(1000), None);
        let status = clients.status().await;
        assert_eq!((status.used_bytes, status.clients.len()), (None, 3));
        assert_eq!((status.clients[2].used_bytes, status.clients[2].name.len()), (None, STATUS_NAME));
    }
}
