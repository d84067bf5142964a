//! The whole cluster by TLS: three configsvrs, a proxy that registers with them, and instances that replicate, fail over
//! and give slots away.

use crate::scene::{Client, PATIENCE, Process, caller, directory, free, pem, redis};
use anyhow::{Context, Result, ensure};
use configsvr::playground::{find_binary, until};
use nix::sys::signal::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The sections that proxies and configsvrs share.
const INSTANCES: &str =
    "instance_tls:\n  enabled: true\n  ca_file: ca.pem\n  cert_file: client.pem\n  key_file: client.key\n";

fn configsvr(dir: &Path, members: &[SocketAddr], at: usize) -> Result<Process> {
    let list: String =
        (1..).zip(members).map(|(id, addr)| format!("  - {{id: {id}, name: c{id}, addr: '{addr}'}}\n")).collect();
    let text = format!(
        "name: c{}\nlisten: '{}'\ndata_dir: c{}\nmembers:\n{list}peer_token: {TOKEN}\n{INSTANCES}tls:\n  cert_file: server.pem\n  \
         key_file: server.key\n  client_ca_file: ca.pem\n  ca_file: ca.pem\n",
        at + 1,
        members[at],
        at + 1
    );
    let name = format!("c{}", at + 1);
    fs::write(dir.join(format!("{name}.yml")), text)?;
    let program = find_binary("twemslot-configsvr").context("cargo build --bins")?;
    Process::start(&program, &["-c".into(), format!("{name}.yml")], dir, &name)
}

fn proxy(dir: &Path, tls: SocketAddr, admin: SocketAddr, members: &[SocketAddr]) -> Result<Process> {
    let members: String = members.iter().map(|m| format!("'https://{m}',")).collect();
    let text = format!(
        "listen: '{tls}'\nadmin: '{admin}'\nworkers: 1\n{INSTANCES}tls:\n  listen: '{tls}'\n  admin: true\n  cert_file: server.pem\n  \
         key_file: server.key\ncontrol:\n  id: px\n  configsvrs: [{members}]\n  ca_file: ca.pem\n  cert_file: client.pem\n  \
         key_file: client.key\n"
    );
    fs::write(dir.join("proxy.yml"), text)?;
    let program = find_binary("twemslot-proxy").context("cargo build --bins")?;
    Process::start(&program, &["-c".into(), "proxy.yml".into()], dir, "proxy")
}

/// What twemslotctl says, if all is well.
fn ctl(dir: &Path, api: &str, args: &str) -> Result<String> {
    let program = find_binary("twemslotctl").context("cargo build --bins")?;
    let mut command = Command::new(program);
    command.current_dir(dir).args(["--ca", "ca.pem", "--cert", "client.pem", "--key", "client.key", "--endpoint", api]);
    let output = command.args(args.split_whitespace()).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{args}: {said}");
    Ok(said)
}

fn logs(dir: &Path) -> String {
    let text = |name: &str| fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
    ["c1", "c2", "c3", "proxy"].map(text).join("\n")
}

#[test]
fn a_whole_cluster_speaks_nothing_else() -> Result<()> {
    let dir = directory()?;
    let dir = dir.path();
    let ([a, b, c, tls, admin, one, replica, two], _ports) = free()?;
    let members = [a, b, c];
    let configsvrs: Vec<Process> = (0..3).map(|at| configsvr(dir, &members, at)).collect::<Result<_>>()?;
    let _instances: Vec<Process> = [one, replica, two].map(|at| redis(dir, at)).into_iter().collect::<Result<_>>()?;
    let _proxy = proxy(dir, tls, admin, &members)?;
    let api = members.map(|m| format!("https://{m}")).join(",");
    let told = |args: &str| until(args, PATIENCE, || Ok(ctl(dir, &api, args).map_err(|e| format!("{e:#}"))));

    told("cluster create --name shop").with_context(|| logs(dir))?;
    told(&format!("groups add --primary {one} --replica {replica} --name g1")).with_context(|| logs(dir))?;
    told(&format!("groups add --primary {two} --name g2")).with_context(|| logs(dir))?;
    told("slots spread --yes").with_context(|| logs(dir))?;
    let caller = caller(None)?;
    let mut client = until("a value is set", PATIENCE, || {
        let asked = Client::connect(tls, &caller).and_then(|mut c| Ok((c.ask(&["SET", "k", "v"])?, c)));
        Ok(match asked {
            Ok((said, client)) if said == b"+OK\r\n" => Ok(client),
            Ok((said, _)) => Err(String::from_utf8_lossy(&said).into_owned()),
            Err(e) => Err(format!("{e:#}")),
        })
    })
    .with_context(|| logs(dir))?;
    for i in 0..2000 {
        let (key, value) = (format!("k{i}"), format!("v{i}"));
        ensure!(client.ask(&["SET", &key, &value])? == b"+OK\r\n");
    }

    // The certificates change under way: whoever connects from now on sees the new ones, and all goes on.
    fs::write(dir.join("server.pem"), pem("renewed.pem"))?;
    fs::write(dir.join("server.key"), pem("renewed.key"))?;
    configsvrs.iter().try_for_each(|c| c.signal(Signal::SIGHUP))?;

    // Slots move (PSYNC, RESTORE), and a primary is replaced (INFO, REPLICAOF), all over TLS.
    told("migrations start --from g1 --to g2 --count 500 --wait --yes").with_context(|| logs(dir))?;
    until("the replica is in step", PATIENCE, || {
        Ok(ctl(dir, &api, "switchover g1 --yes").map_err(|e| format!("{e:#}")))
    })
    .with_context(|| logs(dir))?;
    for i in 0..2000 {
        let value = format!("v{i}");
        ensure!(
            client.ask(&["GET", &format!("k{i}")])? == format!("${}\r\n{value}\r\n", value.len()).as_bytes(),
            "k{i}"
        );
    }
    let seen = ctl(dir, &api, "proxies list")?;
    ensure!(seen.contains(&format!("https://{admin}")), "{seen}");
    let instances = "doctor --instance-ca ca.pem --instance-cert client.pem --instance-key client.key".to_owned();
    let seen = told(&instances)?;
    ensure!(seen.contains(&one.to_string()), "{seen}");
    until("the new certificate was read", PATIENCE, || {
        Ok(if logs(dir).matches("certificates read again").count() == 3 { Ok(()) } else { Err(logs(dir)) })
    })?;

    // Without a certificate nobody gets in, nor without TLS.
    ensure!(Client::connect(a, &caller).and_then(|mut c| c.ask(&["PING"])).is_err(), "the API asks for a certificate");
    let program = find_binary("twemslotctl").context("cargo build --bins")?;
    let plain = Command::new(program).args(["--api", &format!("http://{a}"), "status"]).output()?;
    ensure!(!plain.status.success(), "{}", String::from_utf8_lossy(&plain.stdout));
    Ok(())
}
