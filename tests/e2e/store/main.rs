//! The store, in each of its kinds, against what it promises: in memory, embedded (members of configSvr in this process,
//! over real sockets and disks), and in a real etcd.

mod contract;
mod site;
mod writers;
mod members;
mod embedded;
mod etcds;
mod etcd;

use configsvr::store::memory::Memory;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_contract() {
    contract::all(Arc::new(Memory::new())).await;
}

#[tokio::test]
async fn an_outage_of_memory_is_told_and_healed() {
    let memory = Memory::new();
    contract::outage(Arc::new(memory.clone()), async |away| memory.lose(away.then_some("pulled the plug"))).await;
}
