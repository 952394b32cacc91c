//! What a container reaches, and what it does not.
//!
//! "The outside" is a network namespace of the test's own, connected to this machine by a link, so that nothing here
//! depends on the machine's real network.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use common::{Machine, output_of, own_address, run};

/// Another "machine" at `address`, which tells everybody who connects to port 7 who they seem to be.
struct Outside {
    name: String,
    address: Ipv4Addr,
}

impl Outside {
    /// `number` keeps tests that run at the same time apart. 198.18.0.0/15 is reserved for tests of networks.
    fn new(number: u8) -> Self {
        let name = format!("dortest{number}");
        let (host, address) = (Ipv4Addr::new(198, 18, number, 1), Ipv4Addr::new(198, 18, number, 2));
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
        let ip = |args: &str| run(Command::new("ip").args(args.split(' ')));
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name eth0 netns {name}"));
        ip(&format!("addr add {host}/24 dev {name}"));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        let listener = listen_in(&name);
        // Ends with the test program; the namespace is kept by its name only until then.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = writeln!(stream, "you are {peer}");
            }
        });
        Self { name, address }
    }
}

/// A socket stays in the network namespace in which it was made, so one thread goes there to make it.
fn listen_in(namespace: &str) -> TcpListener {
    let namespace = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let thread = std::thread::spawn(move || {
        use std::os::fd::AsRawFd;
        // SAFETY: takes only an open descriptor; changes this short-lived thread only.
        assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        TcpListener::bind("0.0.0.0:7").unwrap()
    });
    thread.join().unwrap()
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nat_other_machines_are_reached_and_see_this_machines_address() {
    let machine = Machine::new();
    let outside = Outside::new(1);
    let script = format!("nc -w 5 {} 7 </dev/null; ip route | head -1", outside.address);
    let output = machine.run(machine.shell(&script).nat()).await.ok();
    assert!(output.contains("default via 10."), "{output}");
    assert!(output.starts_with("you are 198.18.1.1\n"), "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_network_there_is_only_loopback() {
    let machine = Machine::new();
    let outside = Outside::new(2);
    let script =
        format!("nc -w 2 {} 7 </dev/null; ls /sys/class/net; wget -q -O- http://127.0.0.1:1/ ", outside.address);
    let output = machine.sh(&script).await.output;
    assert!(output.contains("Network is unreachable") && output.contains("lo\n"), "{output}");
    assert!(output.contains("Connection refused"), "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_of_this_machine_is_reached_on_any_address() {
    let machine = Machine::new();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"reached\n");
        }
    });
    let script = format!(
        "gateway=$(ip route | awk '/default/ {{print $3}}'); \
         for to in $gateway {own} 127.0.0.1; do nc -w 1 $to {port} </dev/null; done; echo end",
        own = own_address()
    );
    assert!(std::net::TcpStream::connect((own_address(), port)).is_ok());
    let output = machine.run(machine.shell(&script).nat()).await.ok();
    assert!(!output.contains("reached") && output.ends_with("end\n"), "{output}");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_do_not_reach_each_other() {
    let machine = Machine::new();
    let server = machine.start(machine.shell("while :; do nc -l -p 80 -e echo reached; done").nat()).await;
    let pid = server.container.pid().to_string();
    let inside = |command: &str| {
        let output = output_of(Command::new("nsenter").args(["-t", &pid, "-n", "bash", "-c", command]));
        String::from_utf8(output.stdout).unwrap()
    };
    // Within its own network the server answers: otherwise it would prove nothing that others do not reach it.
    let started = std::time::Instant::now();
    while !inside("cat < /dev/tcp/127.0.0.1/80").contains("reached") {
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "the server does not listen");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let text = inside("ip -4 -o addr show eth0");
    let address = text.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_string();
    let client = machine.shell(&format!("nc -w 2 {address} 80 </dev/null; ping -c 1 -W 1 {address}; echo end")).nat();
    let output = machine.run(client).await.ok();
    assert!(!output.contains("reached") && !output.contains("1 packets received"), "{output}");
    server.container.kill();
    server.end().await;
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn low_ports_and_ping_need_no_right() {
    let machine = Machine::new();
    let script = "(nc -l -p 80 -e echo hello &) ; sleep 0.3; nc -w 2 127.0.0.1 80; sleep 1000";
    let run = machine.start(machine.shell(script)).await;
    // Read from outside: the numbers are groups, which inside would be shown as the container sees them.
    let setting = ["-n", "cat", "/proc/sys/net/ipv4/ping_group_range"];
    let output = output_of(Command::new("nsenter").args(["-t", &run.container.pid().to_string()]).args(setting));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\t2147483647\n");
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    run.container.kill();
    assert_eq!(run.end().await.output, "hello\n");
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_listener_is_served_from_outside_with_or_without_network() {
    let machine = Machine::new();
    for nat in [false, true] {
        let spec = machine.shell("nc -w 5 127.0.0.1 5678 </dev/null").change(|spec| spec.loopback_port = Some(5678));
        let run = machine.start(if nat { spec.nat() } else { spec }).await;
        let listener = run.container.take_listener().unwrap();
        assert!(run.container.take_listener().is_none());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"from the server\n").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0]);
        });
        assert_eq!(run.end().await.ok(), "from the server\n");
        server.join().unwrap();
    }
    machine.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runtimes_on_one_machine_have_different_networks() {
    let (one, two) = (Machine::new(), Machine::new());
    let outside = Outside::new(3);
    let script = format!("ip route | head -1; nc -w 5 {} 7 </dev/null", outside.address);
    let first = one.run(one.shell(&script).nat()).await.ok();
    let second = two.run(two.shell(&script).nat()).await.ok();
    assert!(first.contains("you are") && second.contains("you are"));
    assert_ne!(first.lines().next(), second.lines().next());
    one.leave_nothing().await;
    let again = two.run(two.shell(&script).nat()).await.ok();
    assert_eq!(again, second);
    two.leave_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_name_servers_reach_the_container() {
    let machine = Machine::with(|config| config.resolvers = vec!["192.0.2.53".parse().unwrap()]);
    assert_eq!(machine.run(machine.shell("cat /etc/resolv.conf").nat()).await.ok(), "nameserver 192.0.2.53\n");
    assert_eq!(machine.sh("cat /etc/resolv.conf").await.ok(), "");
    machine.leave_nothing().await;
}
