//! A watch on etcd that does not end: it lists, follows, and when its member dies, freezes or forgets, goes on at another
//! from the next revision, or lists again.

use super::Etcd;
use super::links::Miss;
use crate::store::{Change, Fault, Notice, Revision};
use etcd_client::{Client, Error, EventType, WatchOptions, WatchResponse, WatchStream};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// How long etcd may be away before the reader is told: its elections are shorter.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Watching {
    pub(super) etcd: Etcd,
    pub(super) notices: mpsc::Sender<Notice>,
}

/// Why a stream is left.
enum Left {
    /// The reader is gone.
    Unread,
    /// Another member may know more.
    Broken(String),
    /// What comes next is no longer known.
    Compacted,
}

impl Watching {
    /// Ends when nobody reads.
    pub(super) async fn run(self) {
        // Whether the reader knows everything up to some revision, and that etcd is there.
        let mut told = false;
        loop {
            let revision = match self.etcd.list("").await {
                Ok(snapshot) => {
                    let revision = snapshot.revision;
                    if self.notices.send(Notice::Listed(snapshot)).await.is_err() {
                        return;
                    }
                    told = true;
                    revision
                }
                Err(fault) => {
                    if std::mem::take(&mut told) && self.lost(&fault).await.is_none() {
                        return;
                    }
                    tokio::select! {
                        () = self.notices.closed() => return,
                        () = sleep(PAUSE) => continue,
                    }
                }
            };
            let left = tokio::select! {
                () = self.notices.closed() => return,
                left = self.follow(revision) => left,
            };
            match left {
                Left::Unread => return,
                Left::Compacted => tracing::info!("etcd has compacted what a watch was to see: listing again"),
                Left::Broken(why) => {
                    told = false;
                    if self.lost(&Fault::Unavailable(why)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn lost(&self, fault: &Fault) -> Option<()> {
        self.notices.send(Notice::Lost(fault.to_string())).await.ok()
    }

    /// Tells all changes after `seen`, over as many streams as it takes.
    async fn follow(&self, mut seen: Revision) -> Left {
        let mut since = Instant::now();
        loop {
            let (count, first) = self.etcd.links.order();
            let mut why = String::new();
            for step in 0..count {
                match self.stream((first + step) % count, &mut seen, &mut since).await {
                    Left::Broken(said) => why = said,
                    left => return left,
                }
            }
            if since.elapsed() >= LOST_AFTER {
                return Left::Broken(why);
            }
            sleep(PAUSE).await;
        }
    }

    /// Tells what one stream says. `since`: when etcd was last known to be there.
    async fn stream(&self, at: usize, seen: &mut Revision, since: &mut Instant) -> Left {
        let start = *seen as i64 + 1;
        let mut stream = match self.etcd.links.attempt(at, |client| self.open(client, start)).await {
            Ok(stream) => stream,
            Err(Miss::Not(why) | Miss::Perhaps(why)) => return Left::Broken(why),
            Err(Miss::Final(fault)) => return Left::Broken(fault.to_string()),
        };
        let left = self.read(&mut stream, seen).await;
        // It was there until now, or pings would have found out.
        *since = Instant::now();
        self.etcd.links.renew(at).await;
        left
    }

    async fn read(&self, stream: &mut WatchStream, seen: &mut Revision) -> Left {
        loop {
            let response = match stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Left::Broken("the watch ended".to_owned()),
                Err(error) => return Left::Broken(error.to_string()),
            };
            if response.canceled() {
                return match response.compact_revision() {
                    0 => Left::Broken(response.cancel_reason().to_owned()),
                    _ => Left::Compacted,
                };
            }
            if self.tell(&response, seen).await.is_none() {
                return Left::Unread;
            }
        }
    }

    /// Opened when etcd says so: a frozen member would let us wait for ever.
    async fn open(&self, client: Client, start: i64) -> Result<WatchStream, Error> {
        let options = WatchOptions::new().with_prefix().with_start_revision(start);
        let mut watches = client.watch_client().max_decoding_message_size(super::MESSAGE_MAX);
        let mut stream = watches.watch(self.etcd.full(""), Some(options)).await?;
        let created = timeout(self.etcd.links.options().timeout(), stream.message()).await;
        match created {
            Ok(Ok(Some(response))) if response.canceled() => {
                Err(Error::WatchError(response.cancel_reason().to_owned()))
            }
            Ok(Ok(Some(_))) => Ok(stream),
            Ok(Ok(None)) => Err(Error::WatchError("the watch ended".to_owned())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::WatchError("no answer to a watch".to_owned())),
        }
    }

    /// One notice a revision. A response never holds a part of one.
    async fn tell(&self, response: &WatchResponse, seen: &mut Revision) -> Option<()> {
        let mut changes: Vec<(Revision, Vec<Change>)> = Vec::new();
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision() as Revision;
            let change = match event.event_type() {
                EventType::Put => Change::Put(self.etcd.entry(kv)),
                EventType::Delete => Change::Delete { key: self.etcd.relative(kv.key()) },
            };
            match changes.last_mut() {
                Some((last, list)) if *last == revision => list.push(change),
                _ => changes.push((revision, vec![change])),
            }
        }
        for (revision, changes) in changes {
            if revision <= *seen {
                continue;
            }
            *seen = revision;
            self.notices.send(Notice::Changed { revision, changes }).await.ok()?;
        }
        Some(())
    }
}
