//! The store in etcd.

mod watching;
mod links;
pub mod options;

pub use options::{Options, Secret, Tls};

use super::{Compare, Entry, Fault, LeaseId, NOTICES_MAX, Notice, Op, Revision, Server, Snapshot, Store, Txn, Verdict};
use etcd_client::{Client, CompareOp, Error, GetOptions, KeyValue, KvClient, PutOptions, ResponseHeader, TxnOp};
use futures_util::future::BoxFuture;
use links::{Answer, Links, Repeat};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use watching::Watching;

/// The largest answer: a whole prefix. etcd-client's own limit is 4 MiB, which an audit trail may exceed.
const MESSAGE_MAX: usize = 256 << 20;

/// Cheap to clone. Connects when it is first used.
#[derive(Clone)]
pub struct Etcd {
    links: Arc<Links>,
}

impl Etcd {
    /// An error says what in the options cannot work; whether etcd is there shows later.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        options.check()?;
        Ok(Self { links: Arc::new(Links::new(options)) })
    }

    fn full(&self, key: &str) -> String {
        format!("{}/{key}", self.links.options().prefix())
    }

    fn relative(&self, key: &[u8]) -> String {
        let prefix = self.links.options().prefix().len() + 1;
        String::from_utf8_lossy(key.get(prefix..).unwrap_or_default()).into_owned()
    }

    fn entry(&self, kv: &KeyValue) -> Entry {
        Entry {
            key: self.relative(kv.key()),
            value: String::from_utf8_lossy(kv.value()).into_owned(),
            modified: kv.mod_revision() as Revision,
            lease: Some(kv.lease()).filter(|lease| *lease != 0),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, Fault> {
        let key = self.full(prefix);
        let get = |client: Client| {
            let (mut kv, key) = (kv(&client), key.clone());
            async move { kv.get(key, Some(GetOptions::new().with_prefix())).await }
        };
        let found = self.links.call(Repeat::Read, get).await?.value;
        let mut entries: Vec<Entry> = found.kvs().iter().map(|kv| self.entry(kv)).collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Snapshot { revision: revision(found.header()), entries })
    }

    fn translate(&self, txn: &Txn) -> etcd_client::Txn {
        let compares = txn.compares.iter().map(|compare| match compare {
            Compare::Absent { key } => etcd_client::Compare::create_revision(self.full(key), CompareOp::Equal, 0),
            Compare::ModifiedAt { key, revision } => {
                etcd_client::Compare::mod_revision(self.full(key), CompareOp::Equal, *revision as i64)
            }
            Compare::ValueIs { key, value } => {
                etcd_client::Compare::value(self.full(key), CompareOp::Equal, value.as_str())
            }
            Compare::UnwrittenSince { prefix, revision } => {
                let end = *revision as i64 + 1;
                etcd_client::Compare::mod_revision(self.full(prefix), CompareOp::Less, end).with_prefix()
            }
        });
        let ops = txn.ops.iter().map(|op| match op {
            Op::Put { key, value, lease } => {
                let options = PutOptions::new().with_lease(lease.unwrap_or(0));
                TxnOp::put(self.full(key), value.as_str(), Some(options))
            }
            Op::Delete { key } => TxnOp::delete(self.full(key), None),
        });
        etcd_client::Txn::new().when(compares.collect::<Vec<_>>()).and_then(ops.collect::<Vec<_>>())
    }

    async fn write(&self, txn: Txn) -> Result<Verdict, Fault> {
        txn.check()?;
        let translated = self.translate(&txn);
        let write = |client: Client| {
            let (mut kv, txn) = (kv(&client), translated.clone());
            async move { kv.txn(txn).await }
        };
        let written = self.links.call(repeats(&txn), write).await;
        let Answer { value, perhaps_before } = written.map_err(|fault| lease_fault(fault, &txn))?;
        let at = revision(value.header());
        match (value.succeeded(), perhaps_before) {
            (true, _) => Ok(Verdict::Done(at)),
            (false, None) => Ok(Verdict::Refused(at)),
            // By what somebody else did, or by our own first attempt.
            (false, Some(why)) => Err(Fault::Unknown(format!("{why}; asked again, it was refused"))),
        }
    }
}

fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(MESSAGE_MAX)
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision() as Revision)
}

/// A transaction that makes one of its own comparisons false when it is done is done at most once, however often it is
/// asked for.
fn repeats(txn: &Txn) -> Repeat {
    let ends = |compare: &Compare, op: &Op| match (compare, op) {
        (Compare::Absent { key }, Op::Put { key: put, .. }) => key == put,
        (Compare::ModifiedAt { key, revision }, op) => key == op.key() && *revision != 0,
        (Compare::ValueIs { key, value }, Op::Put { key: put, value: next, .. }) => key == put && value != next,
        (Compare::ValueIs { key, .. }, Op::Delete { key: deleted }) => key == deleted,
        (Compare::UnwrittenSince { prefix, .. }, Op::Put { key, .. }) => key.starts_with(prefix),
        (Compare::Absent { .. } | Compare::UnwrittenSince { .. }, Op::Delete { .. }) => false,
    };
    let harmless = txn.ops.is_empty() || txn.compares.iter().any(|c| txn.ops.iter().any(|op| ends(c, op)));
    if harmless { Repeat::Harmless } else { Repeat::Harmful }
}

/// etcd does not say which lease it misses.
fn lease_fault(fault: Fault, txn: &Txn) -> Fault {
    let lease = txn.ops.iter().find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } => None,
    });
    match (fault, lease) {
        (Fault::NoLease(_), Some(lease)) => Fault::NoLease(lease),
        (fault, _) => fault,
    }
}

impl Store for Etcd {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<Option<Entry>, Fault>> {
        let key = self.full(key);
        Box::pin(async move {
            let get = |client: Client| {
                let (mut kv, key) = (kv(&client), key.clone());
                async move { kv.get(key, None).await }
            };
            let found = self.links.call(Repeat::Read, get).await?.value;
            Ok(found.kvs().first().map(|kv| self.entry(kv)))
        })
    }

    fn range(&self, prefix: &str) -> BoxFuture<'_, Result<Snapshot, Fault>> {
        let prefix = prefix.to_owned();
        Box::pin(async move { self.list(&prefix).await })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Verdict, Fault>> {
        Box::pin(self.write(txn))
    }

    fn watch(&self) -> mpsc::Receiver<Notice> {
        // What a slow reader is further behind waits in etcd, until it is compacted there.
        let (notices, reader) = mpsc::channel(NOTICES_MAX);
        tokio::spawn(Watching { etcd: self.clone(), notices }.run());
        reader
    }

    /// A lease that was granted without an answer is nobody's, and ends by itself.
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Fault>> {
        Box::pin(async move {
            let ttl_s = super::whole_seconds(ttl) as i64;
            let grant = move |mut client: Client| async move { client.lease_grant(ttl_s, None).await };
            Ok(self.links.call(Repeat::Harmless, grant).await?.value.id())
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let keep = move |mut client: Client| async move {
                match client.lease_keep_alive(lease).await {
                    Ok(_) => Ok(true),
                    Err(Error::LeaseKeepAliveError(why)) if why.contains("not found") => Ok(false),
                    Err(error) => Err(error),
                }
            };
            let kept = self.links.call(Repeat::Harmless, keep).await?.value;
            if kept { Ok(()) } else { Err(Fault::NoLease(lease)) }
        })
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Fault>> {
        Box::pin(async move {
            let revoke = move |mut client: Client| async move { client.lease_revoke(lease).await.map(drop) };
            match self.links.call(Repeat::Harmless, revoke).await {
                Ok(_) | Err(Fault::NoLease(_)) => Ok(()),
                Err(fault) => Err(fault),
            }
        })
    }

    fn servers(&self) -> BoxFuture<'_, Vec<Server>> {
        Box::pin(self.links.servers())
    }

    fn describe(&self) -> String {
        self.links.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_undoes_its_own_comparison_is_asked_for_twice() {
        let key = || "a".to_owned();
        let put = |value: &str| Op::Put { key: key(), value: value.to_owned(), lease: None };
        let is = |value: &str| Compare::ValueIs { key: key(), value: value.to_owned() };
        let at = |revision| Compare::ModifiedAt { key: key(), revision };
        let delete = || Op::Delete { key: key() };
        let absent = || Compare::Absent { key: key() };
        let other = || Compare::ValueIs { key: "leader".to_owned(), value: "me".to_owned() };
        let unwritten = |prefix: &str| Compare::UnwrittenSince { prefix: prefix.to_owned(), revision: 5 };
        let judged = |compare, op| repeats(&Txn { compares: vec![other(), compare], ops: vec![op] });
        for (compare, op) in [
            (unwritten(""), put("1")),
            (absent(), put("1")),
            (at(5), put("1")),
            (at(5), delete()),
            (is("1"), put("2")),
            (is("1"), delete()),
        ] {
            assert_eq!(judged(compare.clone(), op.clone()), Repeat::Harmless, "{compare:?} {op:?}");
        }
        for (compare, op) in [
            (unwritten(""), delete()),
            (unwritten("b"), put("1")),
            (absent(), delete()),
            (at(0), delete()),
            (is("1"), put("1")),
            (other(), put("1")),
        ] {
            assert_eq!(judged(compare.clone(), op.clone()), Repeat::Harmful, "{compare:?} {op:?}");
        }
        assert_eq!(repeats(&Txn { compares: vec![], ops: vec![put("1")] }), Repeat::Harmful);
        assert_eq!(repeats(&Txn { compares: vec![other()], ops: vec![] }), Repeat::Harmless);
    }
}
