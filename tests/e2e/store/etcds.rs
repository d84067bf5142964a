//! Real etcd processes: started, killed, frozen, and gone when this is dropped.

use crate::site::{eventually, port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Etcds {
    pub dir: TempDir,
    pub members: Vec<Etcd>,
}

pub struct Etcd {
    pub endpoint: String,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Etcd {
    pub fn start(&mut self) {
        let mut etcd = Command::new("etcd");
        etcd.args(&self.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(etcd.spawn().expect("etcd starts: .ci/install-tests installs it"));
    }

    /// As kill -9.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("ours");
            child.wait().expect("ours");
        }
    }

    pub fn freeze(&self, frozen: bool) {
        let pid = Pid::from_raw(self.child.as_ref().expect("runs").id() as i32);
        kill(pid, if frozen { Signal::SIGSTOP } else { Signal::SIGCONT }).expect("ours");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcds {
    /// `more`: arguments for each.
    pub async fn start(count: usize, more: &[&str]) -> Self {
        Self::with("http", count, |_| more.iter().map(|&argument| argument.to_owned()).collect()).await
    }

    /// `more`: arguments, which may name files in the directory it is given.
    pub async fn with(scheme: &str, count: usize, more: impl Fn(&TempDir) -> Vec<String>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let more = more(&dir);
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (port(), port())).collect();
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(i, (_, peer))| format!("e{i}=http://127.0.0.1:{peer}")).collect();
        let member = |(i, (client, peer)): (usize, &(u16, u16))| {
            let client = format!("{scheme}://127.0.0.1:{client}");
            let data = dir.path().join(format!("e{i}"));
            let own = [
                format!("--name=e{i}"),
                format!("--data-dir={}", data.display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-cluster={}", peers.join(",")),
            ];
            Etcd { endpoint: client, arguments: own.into_iter().chain(more.clone()).collect(), child: None }
        };
        let mut etcds = Self { members: ports.iter().enumerate().map(member).collect(), dir };
        etcds.members.iter_mut().for_each(Etcd::start);
        etcds
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// What etcdctl says.
    pub fn ctl(&self, at: usize, arguments: &[&str]) -> Result<String, String> {
        let mut ctl = Command::new("etcdctl");
        ctl.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.members[at].endpoint)).args(arguments);
        let output = ctl.output().expect("etcdctl runs: .ci/install-tests installs it");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Which one leads.
    pub async fn leader(&self) -> usize {
        let mut found = None;
        eventually(PATIENCE, "a leader of etcd", async || {
            found = (0..self.members.len()).find(|at| {
                self.members[*at].child.is_some()
                    && self.ctl(*at, &["endpoint", "status", "--write-out=fields"]).is_ok_and(|status| leads(&status))
            });
            found.is_some()
        })
        .await;
        found.expect("just found")
    }
}

fn leads(status: &str) -> bool {
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(&format!("\"{name}\"")))?;
        line.rsplit_once(" : ").map(|(_, value)| value.trim().to_owned())
    };
    field("MemberID").is_some_and(|id| field("Leader") == Some(id))
}
