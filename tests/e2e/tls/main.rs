//! TLS, with real programs: clients, proxy and instance speak nothing else, and whoever speaks it badly hurts nobody.

mod control;
mod scene;

use anyhow::{Context, Result, ensure};
use configsvr::playground::until;
use nix::sys::signal::Signal;
use scene::{Client, PATIENCE, Scene, caller, is_ended, pem};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

fn redis_cli(scene: &Scene, args: &[&str]) -> Result<String> {
    let mut cli = Command::new("redis-cli");
    cli.args(["--tls", "--cacert", "ca.pem", "-h", "127.0.0.1", "-p", &scene.tls.port().to_string()]);
    let output = cli.args(args).current_dir(scene.dir.path()).output().context("redis-cli")?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn bytes_of_all_sizes_come_through() -> Result<()> {
    let scene = Scene::start("")?;
    ensure!(redis_cli(&scene, &["SET", "name", "value"])?.trim() == "OK");
    ensure!(redis_cli(&scene, &["GET", "name"])?.trim() == "value");

    let mut client = scene.client(None)?;
    let large: String =
        (0..50 << 20).map(|i: u32| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 28) as u8)).collect();
    ensure!(client.ask(&["SET", "large", &large])? == b"+OK\r\n");
    let back = client.ask(&["GET", "large"])?;
    ensure!(
        &back[..11] == b"$52428800\r\n" && &back[11..back.len() - 2] == large.as_bytes(),
        "another value came back"
    );

    // Written in one go while nobody reads: replies wait at every place where they can.
    let requests: String = (0..10_000).map(|i| format!("SET k{i} {i}\r\nGET k{i}\r\n")).collect();
    let replies: String = (0..10_000).map(|i| format!("+OK\r\n${}\r\n{i}\r\n", i.to_string().len())).collect();
    client.stream.write_all(requests.as_bytes())?;
    let mut came = vec![0; replies.len()];
    client.stream.read_exact(&mut came)?;
    ensure!(came == replies.as_bytes(), "the pipeline's replies are others");

    // The end of a client that has still much to get: everything, and then the end.
    client.stream.write_all(b"GET large\r\nQUIT\r\n")?;
    thread::sleep(Duration::from_millis(200)); // so that the socket fills: what is right is so without it, too
    let mut rest = Vec::new();
    client.stream.read_to_end(&mut rest)?;
    ensure!(rest.len() == 11 + large.len() + 2 + 5 && rest.ends_with(b"\r\n+OK\r\n"), "{} bytes came", rest.len());
    Ok(())
}

#[test]
fn who_speaks_it_badly_hurts_nobody() -> Result<()> {
    let scene = Scene::start("")?;
    let stalled_at = Instant::now();
    let mut stalled = TcpStream::connect(scene.tls)?;
    let mut half = TcpStream::connect(scene.tls)?;
    half.write_all(b"\x16\x03\x01\x02\x00\x01\x00")?; // a hello's first bytes
    let mut good = scene.client(None)?;
    for bytes in [&b"PING\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0; 600], b"\x16\x03\x01\xff\xff\x01"] {
        let mut plain = TcpStream::connect(scene.tls)?;
        plain.write_all(bytes)?;
        is_ended(&mut plain).with_context(|| format!("after {bytes:?}"))?;
        ensure!(good.ask(&["PING"])? == b"+PONG\r\n");
    }
    // Broken in the middle, as no network does: that connection alone ends.
    let mut broken = scene.client(None)?;
    broken.stream.sock.write_all(b"\x17\x03\x03\x00\x05hello")?;
    is_ended(&mut broken.stream.sock)?;
    // Gone without a word, a hundred times.
    for _ in 0..100 {
        drop(TcpStream::connect(scene.tls)?);
    }
    ensure!(good.ask(&["GET", "up"])? == b"$3\r\nyes\r\n");
    is_ended(&mut stalled)?;
    is_ended(&mut half)?;
    ensure!(stalled_at.elapsed() > Duration::from_secs(3), "a slow client is given some time");
    ensure!(good.ask(&["PING"])? == b"+PONG\r\n");
    ensure!(scene.log().contains("a connection is closed before it is a client"), "{}", scene.log());
    Ok(())
}

#[test]
fn certificates_rotate_and_clients_have_to_show_theirs() -> Result<()> {
    let scene = Scene::start("")?;
    let mut old = scene.client(None)?;
    let (first, dir) = (old.certificate()?, scene.dir.path());
    let shown = |who| scene.client(who).and_then(|c| c.certificate());

    fs::write(dir.join("server.pem"), pem("renewed.pem"))?;
    fs::write(dir.join("server.key"), pem("renewed.key"))?;
    scene.proxy.signal(Signal::SIGHUP)?;
    until("new clients see the new certificate", PATIENCE, || {
        Ok(if shown(None)? == first { Err("the old one".to_owned()) } else { Ok(()) })
    })?;
    let renewed = shown(None)?;
    ensure!(old.ask(&["PING"])? == b"+PONG\r\n", "who is here stays");

    fs::write(dir.join("server.key"), pem("client.key"))?; // not the certificate's
    scene.proxy.signal(Signal::SIGHUP)?;
    let fault = "tls.key_file: server.key: is not the key of the certificate";
    until("the fault is named", PATIENCE, || Ok(if scene.log().contains(fault) { Ok(()) } else { Err(scene.log()) }))?;
    ensure!(shown(None)? == renewed, "the old one stays");

    fs::write(dir.join("server.key"), pem("renewed.key"))?;
    scene.configure("  client_ca_file: ca.pem\n")?;
    scene.proxy.signal(Signal::SIGHUP)?;
    let nobody = || scene.client(None).and_then(|mut c| c.ask(&["PING"]));
    until("who shows none is refused", PATIENCE, || {
        Ok(if nobody().is_ok() { Err("let in".to_owned()) } else { Ok(()) })
    })?;
    ensure!(scene.client(Some("stranger")).and_then(|mut c| c.ask(&["PING"])).is_err(), "a stranger's will not do");
    ensure!(scene.client(Some("client"))?.ask(&["PING"])? == b"+PONG\r\n");
    let said = redis_cli(&scene, &["--cert", "client.pem", "--key", "client.key", "PING"])?;
    ensure!(said.trim() == "PONG", "{said}");
    ensure!(old.ask(&["GET", "up"])? == b"$3\r\nyes\r\n", "who is here stays");
    Ok(())
}

#[test]
fn an_upgrade_keeps_the_listener_and_ends_connections_between_requests() -> Result<()> {
    let scene = Scene::start("")?;
    let mut idle = scene.client(None)?;
    let mut plain = TcpStream::connect(scene.plain)?;
    plain.set_read_timeout(Some(PATIENCE))?;
    ensure!(scene::ask(&mut plain, &["PING"])? == b"+PONG\r\n");
    ensure!(idle.ask(&["PING"])? == b"+PONG\r\n");
    let caller = caller(None)?;
    scene.proxy.signal(Signal::SIGUSR2)?;
    let begun = Instant::now();
    let (mut served, mut lost) = (0, 0);
    // Keys cannot be handed over: this connection ends, but not in the middle of anything, and the next one is taken.
    while begun.elapsed() < PATIENCE {
        match Client::connect(scene.tls, &caller).and_then(|mut next| next.ask(&["GET", "up"])) {
            Ok(said) => ensure!(said == b"$3\r\nyes\r\n", "{}\n{}", said.escape_ascii(), scene.log()),
            Err(e) => {
                // It came to a worker in the moment in which that leaves, and ended before it had asked.
                lost += 1;
                ensure!(lost < 10, "{e:#}");
                continue;
            }
        }
        served += 1;
        if scene.log().matches(" started ").count() > 1 && served > 20 {
            break;
        }
    }
    idle.is_ended_well()?;
    ensure!(scene::ask(&mut plain, &["PING"])? == b"+PONG\r\n", "a plain one moves on");
    Ok(())
}

/// The new binary would have to listen where somebody else does: it does not take over, and nobody notices. Once it can, it
/// is given what was bound for it.
#[test]
fn an_upgrade_that_cannot_have_its_address_is_none() -> Result<()> {
    let scene = Scene::start("")?;
    let mut plain = TcpStream::connect(scene.plain)?;
    plain.set_read_timeout(Some(PATIENCE))?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let addr = taken.local_addr()?;
    let (file, ours) = (scene.dir.path().join("proxy.yml"), format!("'{}']", scene.plain));
    let with_another = fs::read_to_string(&file)?.replace(&ours, &format!("'{}', '{addr}']", scene.plain));
    fs::write(&file, with_another)?;
    scene.proxy.signal(Signal::SIGUSR2)?;
    let refused = || scene.log().contains("no upgrade") && scene.log().contains("another process listens there");
    until("it is said why", PATIENCE, || Ok(if refused() { Ok(()) } else { Err(scene.log()) }))?;
    ensure!(scene::ask(&mut plain, &["PING"])? == b"+PONG\r\n", "who is here stays");
    ensure!(scene.client(None)?.ask(&["PING"])? == b"+PONG\r\n", "and others come");
    ensure!(scene.log().matches(" started ").count() == 1, "{}", scene.log());

    drop(taken);
    scene.proxy.signal(Signal::SIGUSR2)?;
    until("the new binary serves at its new address", PATIENCE, || {
        let asked = TcpStream::connect(addr).map_err(anyhow::Error::from).and_then(|mut client| {
            client.set_read_timeout(Some(PATIENCE))?;
            scene::ask(&mut client, &["PING"])
        });
        Ok(if asked.is_ok_and(|said| said == b"+PONG\r\n") { Ok(()) } else { Err(scene.log()) })
    })?;
    ensure!(scene.log().matches(" started ").count() == 2, "{}", scene.log());
    ensure!(scene::ask(&mut plain, &["PING"])? == b"+PONG\r\n", "who was here moves on");
    Ok(())
}

#[test]
fn behind_a_balancer_the_header_comes_first() -> Result<()> {
    let scene = Scene::start("")?;
    scene.configure(&format!("proxy_protocol: '{}'\n", scene.tls))?;
    scene.proxy.signal(Signal::SIGHUP)?;
    let caller = caller(None)?;
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x09\x08\x07\x7f\0\0\x01\x10\xe1\x18\xec";
    until("a client has its own address", PATIENCE, || {
        // Until the reload is done the header is no hello.
        let asked = Client::connect_after(header, scene.tls, &caller).and_then(|mut c| c.ask(&["CLIENT", "LIST"]));
        Ok(match asked {
            Ok(list) if String::from_utf8_lossy(&list).contains("addr=10.9.8.7:4321") => Ok(()),
            Ok(list) => Err(String::from_utf8_lossy(&list).into_owned()),
            Err(e) => Err(format!("{e:#}")),
        })
    })
}
