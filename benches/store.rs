//! What the store's thread gets through: `cargo bench --bench store`. The folder is `CPD_BENCH_DIR`, else the
//! system's for temporary files; on a RAM disk the figures say nothing about syncs.

use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use cp_proto::values::Username;
use cpd_core::engine::port::{Batch, FromStore, MessageId, Op, SessionId};
use cpd_store::{Store, Writer};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const SESSION: SessionId = SessionId { serial: 1, slot: 1 };
const BODY_BYTES: usize = 200;
/// Batches that are kept on their way, so that the thread never waits for work.
const AHEAD: usize = 4;

struct Bench {
    writer: Writer,
    wakes: Receiver<()>,
    next: u64,
}

impl Bench {
    fn open(path: &Path) -> Bench {
        let mut store = Store::open(path).expect("opens");
        let next = store.load(|_| (), |_| ()).expect("loads").next_id;
        let (wake, wakes) = mpsc::channel();
        let writer =
            store.spawn(move || wake.send(()).unwrap_or_default(), |event| eprintln!("{event}")).expect("spawns");
        Bench { writer, wakes, next }
    }

    fn inserts(&mut self, count: usize) -> Batch {
        let (recipient, sender) =
            (Username::parse(b"recipient1").expect("good"), Username::parse(b"ann").expect("good"));
        let mut batch = Batch::default();
        for _ in 0..count {
            let start = batch.bytes.len() as u32;
            batch.bytes.resize(batch.bytes.len() + BODY_BYTES, b'x');
            let (id, body) = (MessageId(self.next), start..batch.bytes.len() as u32);
            batch.ops.push(Op::Insert { session: SESSION, id, recipient, sender, queued_at: 1_700_000_000, body });
            self.next += 1;
        }
        batch
    }

    fn deletes(ids: std::ops::Range<u64>) -> Batch {
        let ops = ids.map(|id| Op::Delete { session: SESSION, id: MessageId(id) }).collect();
        Batch { ops, ..Batch::default() }
    }

    fn fetches(ids: std::ops::Range<u64>, page: usize) -> Batch {
        let mut batch = Batch { ids: ids.collect(), ..Batch::default() };
        let length = batch.ids.len();
        for start in (0..length).step_by(page) {
            let ids = start as u32..length.min(start + page) as u32;
            batch.ops.push(Op::Fetch { session: SESSION, download: 1, ids });
        }
        batch
    }

    /// Runs the batches with some always on their way, and returns how long it took.
    fn run(&mut self, batches: Vec<Batch>) -> Duration {
        let mut waiting = batches.into_iter();
        let begin = Instant::now();
        let mut out = 0;
        loop {
            while out < AHEAD {
                let Some(batch) = waiting.next() else { break };
                self.writer.submit(batch).expect("is taken");
                out += 1;
            }
            if out == 0 {
                return begin.elapsed();
            }
            match self.writer.try_recv() {
                Some(FromStore::Done(_, outcome)) => {
                    assert!(outcome.inserts && outcome.deletes);
                    out -= 1;
                }
                Some(FromStore::Answers(answers)) => drop(black_box(answers)),
                Some(FromStore::Broken(cause) | FromStore::Changed { what: cause, .. }) => panic!("{cause}"),
                None => self.wakes.recv().unwrap_or_default(),
            }
        }
    }
}

fn folder() -> tempfile::TempDir {
    match std::env::var_os("CPD_BENCH_DIR") {
        Some(folder) => tempfile::tempdir_in(folder).expect("a folder"),
        None => tempfile::tempdir().expect("a folder"),
    }
}

/// Sizes of a batch: a lone message, some, and what a busy reactor gathers.
fn insert(c: &mut Criterion) {
    let folder = folder();
    let mut bench = Bench::open(&folder.path().join("cpd.db"));
    for size in [1, 16, 100, 1000] {
        let mut group = c.benchmark_group("store");
        group.throughput(Throughput::Elements(size as u64)).sample_size(20);
        group.bench_function(format!("insert, {size} a batch, {} ahead", if size == 1 { 1 } else { AHEAD }), |b| {
            b.iter_custom(|rounds| match size {
                // Alone: the next is sent when the last is answered.
                1 => (0..rounds)
                    .map(|_| bench.inserts(1))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|b| bench.run(vec![b]))
                    .sum(),
                _ => {
                    let batches = (0..rounds).map(|_| bench.inserts(size)).collect();
                    bench.run(batches)
                }
            });
        });
        group.finish();
    }
}

fn read_and_delete(c: &mut Criterion) {
    let folder = folder();
    let mut bench = Bench::open(&folder.path().join("cpd.db"));
    let filled = 200_000u64;
    let first = bench.next;
    let batches = (0..filled / 1000).map(|_| bench.inserts(1000)).collect();
    bench.run(batches);
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(1000)).sample_size(20);
    let mut at = 0;
    group.bench_function("fetch, 1000 in pages of 64", |b| {
        b.iter_custom(|rounds| {
            let mut batch = || {
                at = (at + 1000) % filled;
                Bench::fetches(first + at..first + at + 1000, 64)
            };
            let batches = (0..rounds).map(|_| batch()).collect();
            bench.run(batches)
        });
    });
    let mut next = first;
    group.bench_function("delete, 1000 a batch", |b| {
        b.iter_custom(|rounds| {
            let count = rounds * 1000;
            // What is deleted has to be there: fill up outside of the time.
            while bench.next < next + count {
                let batch = bench.inserts(1000);
                bench.run(vec![batch]);
            }
            let batches = (0..rounds).map(|n| Bench::deletes(next + n * 1000..next + (n + 1) * 1000)).collect();
            next += count;
            bench.run(batches)
        });
    });
    group.finish();
}

fn load(c: &mut Criterion) {
    let folder = folder();
    let path = folder.path().join("cpd.db");
    let mut bench = Bench::open(&path);
    let batches = (0..1000).map(|_| bench.inserts(1000)).collect();
    bench.run(batches);
    bench.writer.close();
    let mut group = c.benchmark_group("store");
    group.throughput(Throughput::Elements(1_000_000)).sample_size(10);
    group.bench_function("load, a million", |b| {
        b.iter_batched(
            || (),
            |()| {
                let mut count = 0u64;
                Store::open(&path).expect("opens").load(|_| (), |_| count += 1).expect("loads");
                assert_eq!(count, 1_000_000);
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, insert, read_and_delete, load);
criterion_main!(benches);
