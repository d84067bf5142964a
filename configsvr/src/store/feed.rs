//! A watch on a tree: everything first, then each change, from the tree's own history.

use super::tree::Tree;
use super::{Notice, Revision};
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, watch};

/// Notices on their way to one reader. What a reader is further behind stays in the tree's history, which all share.
const WAITING_MAX: usize = 64;

/// A tree that several tasks use, and a sign for those who wait for its changes.
#[derive(Debug, Default)]
pub struct Shared {
    pub tree: Mutex<Tree>,
    /// The tree's revision, or anything else that makes watches look.
    changed: watch::Sender<Revision>,
}

impl Shared {
    pub fn new(tree: Tree) -> Self {
        Self { changed: watch::Sender::new(tree.revision()), tree: Mutex::new(tree) }
    }

    /// Call it when the tree has changed.
    pub fn announce(&self, revision: Revision) {
        self.changed.send_replace(revision);
    }

    /// Starts a watch; it ends when its receiver is dropped, or when `lost` closes. While `lost` holds a reason, the
    /// reader is told so; when it no longer does, everything is listed again.
    pub fn watch(self: &Arc<Self>, lost: watch::Receiver<Option<String>>) -> mpsc::Receiver<Notice> {
        let (notices, reader) = mpsc::channel(WAITING_MAX);
        let feed = Feed { shared: self.clone(), changed: self.changed.subscribe(), lost, notices, seen: None };
        tokio::spawn(feed.run());
        reader
    }
}

/// One watch.
struct Feed {
    shared: Arc<Shared>,
    changed: watch::Receiver<Revision>,
    lost: watch::Receiver<Option<String>>,
    notices: mpsc::Sender<Notice>,
    /// The last revision told; None: list.
    seen: Option<Revision>,
}

impl Feed {
    /// Ends when nobody reads any more, or the store is gone.
    async fn run(mut self) {
        while self.tell().await.is_some() {
            let gone = tokio::select! {
                changed = self.changed.changed() => changed.is_err(),
                lost = self.lost.changed() => lost.is_err(),
                () = self.notices.closed() => true,
            };
            if gone {
                return;
            }
        }
    }

    /// All that is new. None when nobody reads.
    async fn tell(&mut self) -> Option<()> {
        self.changed.borrow_and_update();
        let lost = self.lost.borrow_and_update().clone();
        if let Some(why) = lost {
            // What is known here goes out first; from then on it may be old.
            if self.seen.is_none() {
                return Some(());
            }
            self.seen = None;
            return self.notices.send(Notice::Lost(why)).await.ok();
        }
        for notice in self.news().await {
            self.seen = match &notice {
                Notice::Listed(snapshot) => Some(snapshot.revision),
                Notice::Changed { revision, .. } => Some(*revision),
                Notice::Lost(_) => None,
            };
            self.notices.send(notice).await.ok()?;
        }
        Some(())
    }

    async fn news(&self) -> Vec<Notice> {
        let tree = self.shared.tree.lock().await;
        match self.seen.and_then(|seen| tree.changes_after(seen)) {
            Some(changes) => changes
                .map(|(revision, changes)| Notice::Changed { revision: *revision, changes: changes.clone() })
                .collect(),
            None => vec![Notice::Listed(tree.range(""))],
        }
    }
}
