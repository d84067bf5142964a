//! A proxy and an instance that meet each other by TLS alone, and clients that do.

use anyhow::{Context, Result, bail, ensure};
use cluster::tls::{Caller, Client as Trust, Identity};
use configsvr::playground::{Block, find_binary, until};
use rustls::{ClientConnection, StreamOwned};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// More than a busy machine takes for anything here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Certificates and keys that are valid for a hundred years, and for nothing but tests.
pub(crate) fn pem(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/src/testdata/tls");
    fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity { cert: pem(&format!("{name}.pem")), key: pem(&format!("{name}.key")) }
}

/// What clients trust, and who they are.
pub(crate) fn caller(who: Option<&str>) -> Result<Caller> {
    let trust = Trust { ca: pem("ca.pem"), identity: who.map(identity), server_name: None };
    trust.config().map_err(|fault| anyhow::anyhow!("{fault:?}"))
}

/// A process that ends with its owner.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Runs in `dir`, where `NAME.log` has what it says.
    pub(crate) fn start(program: &Path, args: &[String], dir: &Path, name: &str) -> Result<Self> {
        let log = fs::File::create(dir.join(format!("{name}.log")))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self(command.spawn().with_context(|| program.display().to_string())?))
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors: it has ended.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// All of it, in a directory of its own.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) proxy: Process,
    _instance: Process,
    /// Where clients speak TLS, and where they do not.
    pub(crate) tls: SocketAddr,
    pub(crate) plain: SocketAddr,
    admin: SocketAddr,
    _ports: Block,
}

impl Scene {
    /// `extra`: lines of the proxy's section `tls:`.
    pub(crate) fn start(extra: &str) -> Result<Self> {
        let dir = directory()?;
        let ([tls, plain, admin, instance], ports) = free()?;
        let instance_process = redis(dir.path(), instance)?;
        fs::write(
            dir.path().join("topology.json"),
            format!(
                r#"{{"epoch":1,"groups":[{{"id":1,"instances":[{{"addr":"{instance}","role":"primary"}}]}}],
                    "slots":[{{"from":0,"to":1023,"group":1}}]}}"#
            ),
        )?;
        let scene_conf = conf(tls, plain, admin, extra);
        fs::write(dir.path().join("proxy.yml"), scene_conf)?;
        let program: PathBuf = find_binary("twemslot-proxy").context("cargo build --bins")?;
        let proxy = Process::start(&program, &["-c".into(), "proxy.yml".into()], dir.path(), "proxy")?;
        let scene = Self { dir, proxy, _instance: instance_process, tls, plain, admin, _ports: ports };
        until("the proxy serves", PATIENCE, || {
            let mut client = match TcpStream::connect(plain) {
                Ok(client) => client,
                Err(e) => return Ok(Err(e.to_string())),
            };
            client.set_read_timeout(Some(PATIENCE))?;
            Ok(match ask(&mut client, &["SET", "up", "yes"]) {
                Ok(said) if said == b"+OK\r\n" => Ok(()),
                Ok(said) => Err(String::from_utf8_lossy(&said).into_owned()),
                Err(e) => Err(format!("{e:#}")),
            })
        })
        .with_context(|| scene.log())?;
        Ok(scene)
    }

    /// Writes the configuration anew, for a reload.
    pub(crate) fn configure(&self, extra: &str) -> Result<()> {
        Ok(fs::write(self.dir.path().join("proxy.yml"), conf(self.tls, self.plain, self.admin, extra))?)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("proxy.log")).unwrap_or_default()
    }

    /// A client by TLS, who is nobody or somebody.
    pub(crate) fn client(&self, who: Option<&str>) -> Result<Client> {
        Client::connect(self.tls, &caller(who)?)
    }
}

/// A directory with the certificates in it.
pub(crate) fn directory() -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    for who in ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"] {
        fs::write(dir.path().join(who), pem(who))?;
    }
    Ok(dir)
}

/// An instance that speaks TLS alone, to those who show a certificate.
pub(crate) fn redis(dir: &Path, at: SocketAddr) -> Result<Process> {
    let settings = [
        ("--port", "0".to_owned()),
        ("--tls-port", at.port().to_string()),
        ("--tls-cert-file", "server.pem".to_owned()),
        ("--tls-key-file", "server.key".to_owned()),
        ("--tls-ca-cert-file", "ca.pem".to_owned()),
        ("--tls-auth-clients", "yes".to_owned()),
        ("--tls-replication", "yes".to_owned()),
        ("--dbfilename", format!("{}.rdb", at.port())),
        ("--save", String::new()),
    ];
    let args: Vec<String> = settings.into_iter().flat_map(|(key, value)| [key.to_owned(), value]).collect();
    let process = Process::start(Path::new("redis-server"), &args, dir, &format!("redis-{}", at.port()))?;
    // Each worker has a link of its own: that one of them serves says nothing of the others, if they came too early.
    until("it listens", PATIENCE, || Ok(TcpStream::connect(at).map(drop).map_err(|e| e.to_string())))?;
    Ok(process)
}

fn conf(tls: SocketAddr, plain: SocketAddr, admin: SocketAddr, extra: &str) -> String {
    format!(
        "listen: ['{tls}', '{plain}']\nadmin: '{admin}'\nworkers: 2\ntls:\n  listen: '{tls}'\n  cert_file: server.pem\n  \
         key_file: server.key\n{extra}instance_tls:\n  enabled: true\n  ca_file: ca.pem\n  cert_file: client.pem\n  \
         key_file: client.key\n"
    )
}

/// Free addresses, which no other test of this machine takes while the block lives. What the system gives may be given to
/// another as soon as it is let go, and proxies that listen at one port share its clients.
pub(crate) fn free<const N: usize>() -> Result<([SocketAddr; N], Block)> {
    let block = Block::of(N as u16)?;
    Ok((std::array::from_fn(|place| block.at(place as u16)), block))
}

/// A client that speaks TLS.
pub(crate) struct Client {
    pub(crate) stream: StreamOwned<ClientConnection, TcpStream>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr, caller: &Caller) -> Result<Self> {
        Self::connect_after(&[], addr, caller)
    }

    /// As one whose balancer says something first.
    pub(crate) fn connect_after(header: &[u8], addr: SocketAddr, caller: &Caller) -> Result<Self> {
        let conn = ClientConnection::new(caller.config.clone(), caller.name_at(addr.ip()))?;
        let mut socket = TcpStream::connect(addr)?;
        socket.write_all(header)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(conn, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream })
    }

    pub(crate) fn ask(&mut self, words: &[&str]) -> Result<Vec<u8>> {
        ask(&mut self.stream, words)
    }

    /// The certificate that it was shown.
    pub(crate) fn certificate(&self) -> Result<Vec<u8>> {
        let shown = self.stream.conn.peer_certificates().and_then(<[_]>::first);
        Ok(shown.context("no certificate")?.to_vec())
    }

    /// Whether the proxy ends the connection, in the way of TLS.
    pub(crate) fn is_ended_well(&mut self) -> Result<()> {
        let n = self.stream.read(&mut [0; 64])?;
        ensure!(n == 0, "bytes came instead of the end");
        Ok(())
    }
}

/// Whether the peer ends the connection, in whatever way, before long.
pub(crate) fn is_ended(stream: &mut TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {} // an alert
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(()),
            Err(e) => bail!("the connection stays open: {e}"),
        }
    }
}

/// One request, and its reply of one line or one bulk.
pub(crate) fn ask(stream: &mut (impl Read + Write), words: &[&str]) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
    cluster::resp::write::request(&mut request, &words);
    stream.write_all(&request)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    let bulk = line.strip_prefix(b"$").map(|n| String::from_utf8_lossy(n).trim().parse::<i64>());
    if let Some(n) = bulk.transpose()?.filter(|n| *n >= 0) {
        let mut rest = vec![0; n as usize + 2];
        stream.read_exact(&mut rest)?;
        line.extend(rest);
    }
    Ok(line)
}
