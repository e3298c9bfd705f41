//! The configuration: what is accepted and what it becomes, and what is refused, where and in which words.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use cluster_proto::{ClusterId, Failback, GroupId, NodeId, Quorum};
use cluster_userspace::config::{Config, HostKind, Protection, Service, Vip, Warning, XdpMode};
use proptest::prelude::*;

mod config_support;

use config_support::{Directory, GOOD, address};

fn serves(interface: &str, xdp: XdpMode) -> Option<Service> {
    Some(Service { interface: interface.to_owned(), xdp, chain: None })
}

const FULL: &str = r#"
[cluster]
name = "edge"
key_file = "cluster.key"
quorum = "auto"
state_dir = "/var/lib/elsewhere"

[timing]
heartbeat = "1ms"
dead_after = "4400us"
lease = "4ms"
startup_wait = "1m"

[control]
socket = "/run/elsewhere/control.sock"

[[node]]
name = "node-a.example"
id = 7
interface = "eth0"
addresses = ["10.78.0.1", "10.77.0.1"]
port = 4781
xdp = "generic"

[[node]]
name = "b"
interface = "eth0.5"
addresses = ["10.78.0.2", "10.77.0.2"]
xdp = "native"

[[group]]
name = "web"
vips = ["10.77.0.100/24", "10.77.0.101/24"]
mode = "active-passive"
prefer = ["b"]
failback = "now"
failback_after = "30s"
mac = "interface"
address = "active"
protocol = "native"
announce = { count = 3, interval = "200ms" }

[[group]]
name = "db"
vips = ["192.0.2.7/32"]
members = ["b"]
failback = "never"
"#;

#[test]
fn a_full_file_becomes_the_settings_of_each_node() {
    let directory = Directory::new();
    let config = directory.parse(FULL).unwrap();
    assert_eq!(config.host_names().collect::<Vec<_>>(), ["node-a.example", "b"]);

    let (settings, local) = config.settings("node-a.example").unwrap();
    let b = NodeId::from_name("b");
    assert_eq!(settings.cluster, ClusterId::from_name("edge"));
    assert_eq!(settings.me, NodeId(7));
    assert_eq!(settings.keys.len(), 1);
    assert_eq!(settings.keys[0].0, [0x0f; 32]);
    let timing = settings.timing;
    assert_eq!(timing.heartbeat, Duration::from_millis(1));
    assert_eq!(timing.lease, Duration::from_millis(4));
    assert_eq!(timing.dead_after, Duration::from_micros(4400));
    assert_eq!(timing.startup_wait, Duration::from_secs(60));
    assert_eq!(settings.peers.len(), 1);
    assert_eq!(settings.peers[0].id, b);
    assert_eq!(settings.peers[0].paths.iter().map(|path| path.service).collect::<Vec<_>>(), [false, true]);

    assert_eq!(settings.groups.len(), 2);
    let web = &settings.groups[0];
    assert_eq!(web.id, GroupId::from_name("web"));
    assert_eq!(web.vips, [Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 101)]);
    assert_eq!(web.prefer, [b, NodeId(7)]);
    assert_eq!(web.failback, Failback::After(Duration::from_secs(30)));
    assert_eq!((web.announce.count, web.announce.interval), (3, Duration::from_millis(200)));
    let db = &settings.groups[1];
    assert_eq!(db.prefer, [b]);
    assert_eq!(db.failback, Failback::Never);
    assert_eq!((db.announce.count, db.announce.interval), (5, Duration::from_millis(500)));

    assert_eq!((local.cluster.as_str(), local.node.as_str()), ("edge", "node-a.example"));
    assert_eq!((local.service.clone(), local.port), (serves("eth0", XdpMode::Generic), 4781));
    assert_eq!(local.state_dir, Path::new("/var/lib/elsewhere/edge/node-a.example"));
    assert_eq!(local.socket, Path::new("/run/elsewhere/control.sock"));
    assert_eq!(local.peers[0].name, "b");
    let ends: Vec<_> =
        local.peers[0].paths.iter().map(|path| (path.local.to_string(), path.remote.to_string())).collect();
    let expected = [("10.78.0.1:4781", "10.78.0.2:4780"), ("10.77.0.1:4781", "10.77.0.2:4780")];
    assert_eq!(ends, expected.map(|(local, remote)| (local.to_owned(), remote.to_owned())));
    assert_eq!(local.groups[0].vips[0], Vip { address: Ipv4Addr::new(10, 77, 0, 100).into(), prefix: 24 });
    assert_eq!(local.groups[0].members, ["b", "node-a.example"]);
    assert_eq!((local.groups[0].priority, local.groups[1].priority), (Some(199), None));
    assert_eq!(local.warnings, []);
    assert_eq!(local.node_name(b), Some("b"));
    assert_eq!(local.group_index("db").map(|index| index.0), Some(1));

    let (settings, local) = config.settings("b").unwrap();
    assert_eq!(settings.me, b);
    assert_eq!(settings.peers[0].id, NodeId(7));
    assert_eq!(local.peers[0].paths[0].remote.to_string(), "10.78.0.1:4781");
    assert_eq!((local.groups[0].priority, &local.service), (Some(200), &serves("eth0.5", XdpMode::Native)));
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let config = Directory::new().parse(GOOD).unwrap();
    let (settings, local) = config.settings("a").unwrap();
    let timing = settings.timing;
    let millis =
        [timing.heartbeat, timing.lease, timing.dead_after, timing.startup_wait].map(|d| d.as_millis());
    assert_eq!(millis, [10, 40, 50, 2000]);
    assert_eq!(local.socket, Path::new("/run/cluster/control.sock"));
    assert_eq!(local.state_dir, Path::new("/var/lib/cluster/edge/a"));
    assert_eq!((local.port, local.service), (4780, serves("eth0", XdpMode::Auto)));
    assert_eq!(settings.groups[0].failback, Failback::Never);
    assert_eq!(settings.groups[0].prefer, [NodeId::from_name("a"), NodeId::from_name("b")]);
    assert_eq!(local.warnings, []);
}

#[test]
fn one_node_alone_is_a_cluster() {
    let text = GOOD.replace(
        "[[node]]\nname = \"b\"\ninterface = \"eth1\"\naddresses = [\"10.78.0.2\", \"10.77.0.2\"]\n",
        "",
    );
    let (settings, local) = Directory::new().parse(&text).unwrap().settings("a").unwrap();
    assert!(settings.peers.is_empty() && local.peers.is_empty() && local.warnings.is_empty());
}

#[test]
fn an_unknown_node_is_told_the_names() {
    let config = Directory::new().parse(GOOD).unwrap();
    let message = config.settings("c").unwrap_err().to_string();
    assert!(
        message.contains("\"c\"") && message.contains("`a` and `b`") && message.contains("--node"),
        "{message}"
    );
}

#[test]
fn what_is_probably_not_meant_is_warned_about() {
    let directory = Directory::new();
    let warnings = |text: &str, node: &str| directory.parse(text).unwrap().settings(node).unwrap().1.warnings;
    let peer = || "b".to_owned();

    let private_only = GOOD.replace(", \"10.77.0.1\"", "").replace(", \"10.77.0.2\"", "");
    let expected = [Warning::NoServicePath { peer: peer() }, Warning::SinglePath { peer: peer() }];
    assert_eq!(warnings(&private_only, "a"), expected);

    let tight = format!("[timing]\nlease = \"30ms\"\nstartup_wait = \"10ms\"\n{GOOD}");
    let found = warnings(&tight, "a");
    assert!(matches!(found[..], [Warning::LeaseTight { .. }, Warning::StartupWaitShort { .. }]), "{found:?}");

    let only_b = format!("{GOOD}members = [\"b\"]\n");
    assert_eq!(warnings(&only_b, "a"), [Warning::MemberOfNothing]);
    assert_eq!(warnings(&only_b, "b"), []);
    for warning in [&expected[0], &found[0], &found[1], &Warning::MemberOfNothing] {
        assert!(warning.to_string().len() > 40, "{warning}");
    }
}

/// Each case changes the good file in one place and names the one error that this makes: the line, the key, and words
/// of the message.
#[test]
fn each_error_alone_is_found_where_it_is() {
    let directory = Directory::new();
    assert_eq!(directory.errors(GOOD), []);
    #[rustfmt::skip]
    let cases: &[(&str, &str, usize, &str, &str)] = &[
        // [cluster]
        ("name = \"edge\"\n", "", 1, "cluster.name", "missing"),
        ("\"edge\"", "\"\"", 2, "cluster.name", "letters"),
        ("\"edge\"", "\"with space\"", 2, "cluster.name", "letters"),
        ("\"edge\"", "\"../../etc\"", 2, "cluster.name", "letters"),
        ("\"edge\"", "\".hidden\"", 2, "cluster.name", "beginning with a letter"),
        ("\"edge\"", "\"naïve\"", 2, "cluster.name", "ASCII"),
        ("\"edge\"", "7", 2, "cluster.name", "must be a string in quotes, not an integer"),
        ("key_file = \"cluster.key\"\n", "", 1, "cluster.key_file", "clusterctl keygen"),
        ("cluster.key", "absent.key", 3, "cluster.key_file", "cannot be read: No such file"),
        ("name = \"edge\"", "name = \"edge\"\nquorum = \"always\"", 3, "cluster.quorum", "use \"auto\", \"off\" or \"majority\""),
        ("name = \"edge\"", "name = \"edge\"\nstate_dir = \"var\"", 3, "cluster.state_dir", "absolute path"),
        ("name = \"edge\"", "name = \"edge\"\nkeyfile = \"x\"", 3, "cluster.keyfile", "did you mean `key_file`?"),
        ("name = \"edge\"", "name = \"edge\"\ncolour = \"x\"", 3, "cluster.colour", "this section has `name`, `key_file`"),
        ("[cluster]", "[clusters]", 1, "clusters", "did you mean `cluster`?"),
        ("[[node]]\nname = \"a\"", "[nonsense]\nx = 1\n[[node]]\nname = \"a\"", 5, "nonsense", "unknown key"),
        // [[node]]
        ("name = \"a\"\n", "", 5, "node[0].name", "missing"),
        ("name = \"b\"", "name = \"a\"", 11, "node[1].name", "another node is called \"a\" (line 6)"),
        ("name = \"b\"", "name = \"b\"\nid = 0", 12, "node[1].id", "from 1 to 65535, not 0"),
        ("name = \"b\"", "name = \"b\"\nid = 65536", 12, "node[1].id", "from 1 to 65535"),
        ("name = \"b\"", "name = \"b\"\nid = 99999999999999999999", 12, "node[1].id", "from 1 to 65535"),
        ("name = \"b\"", "name = \"b\"\nid = 0x1_0000", 12, "node[1].id", "from 1 to 65535"),
        ("name = \"b\"", "name = \"b\"\nid = -1", 12, "node[1].id", "from 1 to 65535"),
        ("name = \"b\"", "name = \"b\"\nid = \"1\"", 12, "node[1].id", "a whole number, not a string"),
        ("name = \"b\"", "name = \"b\"\nport = 0", 12, "node[1].port", "from 1 to 65535"),
        ("name = \"b\"", "name = \"b\"\nport = 4780.0", 12, "node[1].port", "a whole number, not a float"),
        ("name = \"b\"", "name = \"b\"\nxdp = \"chain\"", 12, "node[1].xdp", "needs the key `chain`"),
        ("name = \"b\"", "name = \"b\"\nchain = \"/sys/fs/bpf/mine\"", 12, "node[1].chain", "only goes with `xdp = \"chain\"`"),
        ("name = \"b\"", "name = \"b\"\nxdp = \"chain\"\nchain = \"mine\"", 13, "node[1].chain", "absolute path"),
        ("name = \"b\"", "name = \"b\"\nxdp = \"fast\"", 12, "node[1].xdp", "use \"auto\", \"native\", \"generic\" or \"chain\""),
        ("name = \"b\"", "name = \"b\"\nadress = \"x\"", 12, "node[1].adress", "unknown key"),
        ("name = \"b\"", "name = \"b\"\naddreses = \"x\"", 12, "node[1].addreses", "did you mean `addresses`?"),
        ("interface = \"eth1\"\n", "", 10, "node[1].interface", "missing"),
        ("\"eth1\"", "\"\"", 12, "node[1].interface", "1 to 15 bytes"),
        ("\"eth1\"", "\"interface-too-long\"", 12, "node[1].interface", "1 to 15 bytes"),
        ("\"eth1\"", "\"eth 1\"", 12, "node[1].interface", "1 to 15 bytes"),
        ("\"eth1\"", "\"..\"", 12, "node[1].interface", "1 to 15 bytes"),
        ("\"eth1\"", "\"lo\"", 12, "node[1].interface", "loopback"),
        ("addresses = [\"10.78.0.2\", \"10.77.0.2\"]\n", "", 10, "node[1].addresses", "missing"),
        ("[\"10.78.0.2\", \"10.77.0.2\"]", "\"10.78.0.2\"", 13, "node[1].addresses", "must be an array, not a string"),
        ("[\"10.78.0.2\", \"10.77.0.2\"]", "[\"10.78.0.2\"]", 13, "node[1].addresses", "same position"),
        ("\"10.77.0.2\"", "\"10.77.0.256\"", 13, "node[1].addresses[1]", "must be an IPv4 or IPv6 address"),
        ("\"10.77.0.2\"", "\"10.77.0.2/24\"", 13, "node[1].addresses[1]", "must be an IPv4 or IPv6 address"),
        ("\"10.77.0.2\"", "7", 13, "node[1].addresses[1]", "a string in quotes"),
        ("\"10.77.0.2\"", "\"10.77.0.1\"", 13, "node[1].addresses[1]", "an address of node \"a\" too"),
        ("\"10.77.0.2\"", "\"10.78.0.2\"", 13, "node[1].addresses[1]", "listed twice"),
        ("\"10.77.0.2\"", "\n\n\"224.0.0.18\"", 15, "node[1].addresses[1]", "multicast"),
        ("\"10.77.0.2\"", "\"255.255.255.255\"", 13, "node[1].addresses[1]", "broadcast"),
        ("\"10.77.0.2\"", "\"0.0.0.0\"", 13, "node[1].addresses[1]", "no host"),
        // [[group]]
        ("name = \"web\"\n", "", 15, "group[0].name", "missing"),
        ("name = \"web\"", "name = \"w/b\"", 16, "group[0].name", "letters"),
        ("vips = [\"10.77.0.100/24\"]\n", "", 15, "group[0].vips", "missing"),
        ("[\"10.77.0.100/24\"]", "[]", 17, "group[0].vips", "1 to 32 addresses, not 0"),
        ("[\"10.77.0.100/24\"]", "\"10.77.0.100/24\"", 17, "group[0].vips", "must be an array"),
        ("10.77.0.100/24", "10.77.0.100", 17, "group[0].vips[0]", "prefix length is missing"),
        ("10.77.0.100/24", "10.77.0.100/0", 17, "group[0].vips[0]", "from 1 to 32, not \"0\""),
        ("10.77.0.100/24", "10.77.0.100/33", 17, "group[0].vips[0]", "from 1 to 32"),
        ("10.77.0.100/24", "10.77.0.100/+9", 17, "group[0].vips[0]", "from 1 to 32"),
        ("10.77.0.100/24", "10.77.0.100/", 17, "group[0].vips[0]", "from 1 to 32"),
        ("10.77.0.100/24", "web.example/24", 17, "group[0].vips[0]", "an address and its prefix"),
        ("10.77.0.100/24", "10.77.0.0/24", 17, "group[0].vips[0]", "the network's own address"),
        ("10.77.0.100/24", "10.77.0.255/24", 17, "group[0].vips[0]", "the broadcast address"),
        ("10.77.0.100/24", "127.0.0.1/8", 17, "group[0].vips[0]", "loopback"),
        ("10.77.0.100/24", "10.77.0.1/24", 17, "group[0].vips[0]", "an address of node \"a\""),
        ("\"10.77.0.100/24\"", "\"10.77.0.100/24\", \"10.77.0.100/32\"", 17, "group[0].vips[1]", "listed twice"),
        ("vips =", "prefer = [\"c\"]\nvips =", 17, "group[0].prefer[0]", "there are `a` and `b`"),
        ("vips =", "members = []\nvips =", 17, "group[0].members", "at least one node"),
        ("vips =", "members = [\"a\", \"a\"]\nvips =", 17, "group[0].members[1]", "listed twice"),
        ("vips =", "members = [\"a\"]\nprefer = [\"a\", \"b\"]\nvips =", 18, "group[0].prefer", "names `b`, which `members`"),
        ("vips =", "failback = \"later\"\nvips =", 17, "group[0].failback", "use \"never\", \"now\" or \"idle\""),
        ("vips =", "failback_after = \"3s\"\nvips =", 17, "group[0].failback_after", "failback = \"now\""),
        ("vips =", "failback = \"now\"\nfailback_after = \"3\"\nvips =", 18, "group[0].failback_after", "a unit"),
        ("vips =", "announce = 5\nvips =", 17, "group[0].announce", "must be a table"),
        ("vips =", "announce = { count = 0 }\nvips =", 17, "group[0].announce.count", "from 1 to 100"),
        ("vips =", "announce = { interval = \"0ms\" }\nvips =", 17, "group[0].announce.interval", "from 1ms"),
        ("vips =", "announce = { times = 3 }\nvips =", 17, "group[0].announce.times", "unknown key"),
        ("[[group]]", "[group]", 15, "group", "two brackets"),
        // [timing] and [control], put in front.
        ("[cluster]", "[timing]\nheartbeat = \"999us\"\n[cluster]", 2, "timing.heartbeat", "from 1ms to 10s, not 999us"),
        ("[cluster]", "[timing]\nheartbeat = \"10\"\n[cluster]", 2, "timing.heartbeat", "a whole number and a unit"),
        ("[cluster]", "[timing]\nheartbeat = 10\n[cluster]", 2, "timing.heartbeat", "must be a string in quotes"),
        ("[cluster]", "[timing]\nlease = \"29ms\"\n[cluster]", 2, "timing.lease", "3 heartbeats, 30ms, not 29ms"),
        ("[cluster]", "[timing]\nlease = \"46ms\"\n[cluster]", 2, "timing.dead_after", "its default; give `dead_after` too"),
        ("[cluster]", "[timing]\ndead_after = \"43999us\"\n[cluster]", 2, "timing.dead_after", "1.1 leases, 44ms"),
        ("[cluster]", "[timing]\nheartbeat = \"14ms\"\n[cluster]", 2, "timing.lease", "3 heartbeats, 42ms, not 40ms, its default"),
        ("[cluster]", "[timing]\nlease = \"2m\"\ndead_after = \"2m\"\n[cluster]", 2, "timing.lease", "to 1m"),
        ("[cluster]", "[timing]\nstartup_wait = \"11m\"\n[cluster]", 2, "timing.startup_wait", "to 10m"),
        ("[cluster]", "[timing]\nheartbaet = \"1ms\"\n[cluster]", 2, "timing.heartbaet", "did you mean `heartbeat`?"),
        ("[cluster]", "timing = 7\n[cluster]", 1, "timing", "must be a table, not an integer"),
        ("[cluster]", "[control]\nsocket = \"control.sock\"\n[cluster]", 2, "control.socket", "absolute path"),
        ("[cluster]", "[control]\nsockets = \"/x\"\n[cluster]", 2, "control.sockets", "did you mean `socket`?"),
    ];
    for (from, to, line, key, words) in cases {
        assert_eq!(GOOD.matches(from).count(), 1, "{from:?} must be in the file once");
        let text = GOOD.replace(from, to);
        let errors = directory.errors(&text);
        let found = errors.iter().any(|error| error.0 == *line && error.1 == *key && error.2.contains(words));
        assert!(found, "{to:?} should be refused at line {line}, {key}: …{words}…, but: {errors:#?}");
        // `[clusters]` is also a missing `cluster`; everything else is one mistake and one error.
        if *key != "clusters" {
            assert_eq!(errors.len(), 1, "{to:?}: {errors:#?}");
        }
    }
}

#[test]
fn names_are_bounded_in_length() {
    let directory = Directory::new();
    let named = |length: usize| GOOD.replace("\"edge\"", &format!("\"{}\"", "x".repeat(length)));
    assert_eq!(directory.errors(&named(63)), []);
    assert_eq!(directory.errors(&named(64)).len(), 1);
    let message = &directory.errors(&named(100_000))[0].2;
    assert!(message.len() < 300, "an error quotes no more than it has to");
    let path = format!("[control]\nsocket = \"/{}\"\n{GOOD}", "x".repeat(107));
    assert!(directory.errors(&path)[0].2.contains("at most 107 bytes"));
}

#[test]
fn what_is_documented_but_not_built_is_said_to_be_so() {
    let directory = Directory::new();
    let in_group = |line: &str| format!("{GOOD}{line}\n");
    let cases = [
        (format!("{GOOD}[metrics]\nlisten = \"127.0.0.1:9750\"\n"), "metrics"),
        (in_group("protocol = \"vrrp3\""), "group[0].protocol"),
        (in_group("protocol = \"vrrp2\""), "group[0].protocol"),
        (in_group("protocol = \"carp\""), "group[0].protocol"),
    ];
    for (text, key) in cases {
        let errors = directory.errors(&text);
        let refused = errors.iter().any(|error| error.1 == key && error.2.contains("not supported yet"));
        assert!(refused && errors.len() == 1, "{key}: {errors:#?}");
        assert!(errors[0].0 > 1, "{key} has its line: {errors:?}");
    }
}

#[test]
fn all_errors_come_at_once_and_in_order() {
    let directory = Directory::new();
    let text = r#"[cluster]
nam = "edge"
key_file = "absent.key"
quorum = "most"

[timing]
heartbeat = "20ms"
lease = "40ms"
dead_after = "43ms"

[[node]]
name = "a"
interface = "lo"
addresses = ["10.78.0.1", "10.77.0.1"]

[[node]]
name = "a"
interface = "eth0"
addresses = ["10.78.0.1", "fd00::1"]
weight = 0

[[group]]
name = "web"
vips = ["10.77.0.1/24", "10.77.0.100"]
prefer = ["a"]
grace = "5"

[[group]]
name = "web"
vips = ["10.77.0.100/24"]

[[group]]
name = "db"
vips = ["10.77.0.100/24"]
colour = "blue"
"#;
    let found: Vec<_> = directory.errors(text).into_iter().map(|(line, key, _)| (line, key)).collect();
    let found: Vec<_> = found.iter().map(|(line, key)| (*line, key.as_str())).collect();
    let expected = [
        (1, "cluster.name"),
        (2, "cluster.nam"),
        (3, "cluster.key_file"),
        (4, "cluster.quorum"),
        (8, "timing.lease"),
        (9, "timing.dead_after"),
        (13, "node[0].interface"),
        (17, "node[1].name"),
        (19, "node[1].addresses[0]"),
        (19, "node[1].addresses[1]"),
        (20, "node[1].weight"),
        (24, "group[0].vips[0]"),
        (24, "group[0].vips[1]"),
        (26, "group[0].grace"),
        (29, "group[1].name"),
        (34, "group[2].vips[0]"),
        (35, "group[2].colour"),
    ];
    assert_eq!(found, expected);

    let errors = directory.parse(text).unwrap_err();
    let shown = errors.to_string();
    assert_eq!(shown.lines().count(), expected.len(), "one line each: {shown}");
    let file = directory.0.join("cluster.toml");
    assert!(shown.contains(&format!("{}:8: timing.lease: ", file.display())), "{shown}");
}

#[test]
fn an_empty_file_lacks_everything() {
    let errors = Directory::new().errors("");
    let keys: Vec<_> = errors.iter().map(|error| error.1.as_str()).collect();
    assert_eq!(keys, ["cluster", "node", "group"]);
}

#[test]
fn ids_that_collide_are_refused() {
    let directory = Directory::new();
    let same =
        GOOD.replace("name = \"b\"", "name = \"b\"\nid = 9").replace("name = \"a\"", "name = \"a\"\nid = 9");
    let errors = directory.errors(&same);
    assert!(errors.len() == 1 && errors[0].2.contains("node \"a\" has the id 9 too"), "{errors:?}");

    // Two names whose hashes fold to the same 16 bits.
    let target = NodeId::from_name("a");
    let twin = (0..).map(|n| format!("n{n}")).find(|name| NodeId::from_name(name) == target).unwrap();
    let errors = directory.errors(&GOOD.replace("name = \"b\"", &format!("name = \"{twin}\"")));
    assert!(
        errors.len() == 1 && errors[0].1 == "node[1].id" && errors[0].2.contains("made from the name"),
        "{errors:?}"
    );
    let mended = GOOD.replace("name = \"b\"", &format!("name = \"{twin}\"\nid = 1"));
    assert_eq!(directory.errors(&mended), []);
}

#[test]
fn broken_toml_is_reported_with_its_lines_and_nothing_else() {
    let directory = Directory::new();
    let errors = directory.errors("[cluster]\nname =\nquorum = auto\nkey_file = \"unclosed\n");
    assert!(errors.len() >= 2, "{errors:?}");
    assert!(errors.iter().all(|error| error.1.is_empty()), "{errors:?}");
    assert_eq!(errors[0].0, 2);

    let twice = GOOD.replace("name = \"edge\"", "name = \"edge\"\nname = \"edge\"\ncolour = 1");
    let errors = directory.errors(&twice);
    assert_eq!(errors.iter().map(|error| error.0).collect::<Vec<_>>(), [3, 4], "{errors:?}");
    assert!(errors[0].2.contains("duplicate key"), "{errors:?}");
}

#[test]
fn the_key_is_kept_secret_or_refused() {
    let directory = Directory::new();
    let digits = "0123456789abcdefABCDEF0123456789abcdefABCDEF01234567890123456789";
    let accepted =
        [(format!("{digits}\n"), 0o600), (digits.to_owned(), 0o400), (format!("{digits}\r\n"), 0o600)];
    for (text, mode) in accepted {
        directory.write("cluster.key", &text, mode);
        let (settings, _) = directory.parse(GOOD).unwrap().settings("a").unwrap();
        assert_eq!(settings.keys[0].0[..3], [0x01, 0x23, 0x45]);
        assert!(!format!("{settings:?}").contains("35"), "a key is never shown");
    }
    let refused: [(&str, String, u32, &[&str]); 9] = [
        ("world", format!("{digits}\n"), 0o644, &["mode 0644", "chmod 0600"]),
        ("group", format!("{digits}\n"), 0o640, &["mode 0640"]),
        ("executable", format!("{digits}\n"), 0o700, &["mode 0700"]),
        ("short", "abc\n".to_owned(), 0o600, &["64 hexadecimal digits", "this file has 3"]),
        ("empty", String::new(), 0o600, &["this file has 0"]),
        ("long", "a".repeat(100_000), 0o600, &["this file has more"]),
        ("letters", "g".repeat(64), 0o600, &["64 hexadecimal digits"]),
        ("two lines", format!("{digits}\n{digits}\n"), 0o600, &["64 hexadecimal digits"]),
        ("both", "abc\n".to_owned(), 0o666, &["mode 0666", "this file has 3"]),
    ];
    for (what, text, mode, words) in refused {
        directory.write("cluster.key", &text, mode);
        let errors = directory.errors(GOOD);
        let all: String = errors.iter().map(|error| error.2.clone() + "\n").collect();
        assert!(words.iter().all(|words| all.contains(words)), "{what}: {all}");
        assert!(
            errors.iter().all(|error| error.0 == 3 && error.1 == "cluster.key_file"),
            "{what}: {errors:?}"
        );
        assert!(!all.contains("abcdef"), "no part of a key is shown: {all}");
    }
}

#[test]
fn the_first_of_several_keys_signs_and_each_file_is_checked() {
    let directory = Directory::new();
    let given = |line: &str| GOOD.replace("key_file = \"cluster.key\"", line);
    let both = given("key_files = [\"new.key\", \"cluster.key\"]");

    directory.write("new.key", &"a5".repeat(32), 0o600);
    let (one, _) = directory.parse(GOOD).unwrap().settings("a").unwrap();
    let (several, _) = directory.parse(&both).unwrap().settings("a").unwrap();
    assert_eq!(several.keys.iter().map(|key| key.0).collect::<Vec<_>>(), [[0xa5; 32], one.keys[0].0]);

    let refused = [
        ("key_files = []", "cluster.key_files", "at least one file"),
        ("key_files = \"cluster.key\"", "cluster.key_files", ""),
        ("key_file = \"cluster.key\"\nkey_files = [\"cluster.key\"]", "cluster.key_files", "not both"),
        (
            "key_files = [\"cluster.key\", \"absent.key\"]",
            "cluster.key_files[1]",
            "absent.key: cannot be read",
        ),
    ];
    for (line, key, words) in refused {
        let errors = directory.errors(&given(line));
        assert!(
            matches!(&errors[..], [error] if error.1 == key && error.2.contains(words)),
            "{line}: {errors:?}"
        );
    }

    directory.write("new.key", &"a5".repeat(32), 0o644);
    directory.write("cluster.key", "abc\n", 0o600);
    let errors = directory.errors(&both);
    let keys: Vec<_> = errors.iter().map(|error| error.1.as_str()).collect();
    assert_eq!(keys, ["cluster.key_files[0]", "cluster.key_files[1]"], "all files at once: {errors:?}");
}

#[test]
fn only_a_regular_file_is_a_key() {
    let directory = Directory::new();
    let key = |path: &Path| directory.errors(&GOOD.replace("cluster.key", path.to_str().unwrap()));

    let folder = directory.0.join("folder");
    fs::create_dir(&folder).unwrap();
    assert!(key(&folder)[0].2.contains("not a regular file"));

    // Nobody writes into it, and the check must not wait for somebody who does.
    let fifo = directory.0.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(key(&fifo)[0].2.contains("not a regular file"));
    assert!(key(Path::new("/dev/zero"))[0].2.contains("not a regular file"));

    let link = directory.0.join("link");
    symlink(directory.0.join("cluster.key"), &link).unwrap();
    assert_eq!(key(&link), [], "a link to a good key is one, and an absolute path needs no directory");
    assert_eq!(key(Path::new("./folder/../cluster.key")), [], "relative to the configuration's directory");

    if nix::unistd::geteuid().is_root() {
        let other = directory.write("other.key", &"0f".repeat(32), 0o600);
        std::os::unix::fs::chown(&other, Some(4242), None).unwrap();
        assert!(key(&other)[0].2.contains("belongs to user 4242"));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let directory = Directory::new();
    let absent = Config::load(&directory.0.join("absent.toml")).unwrap_err().to_string();
    assert!(absent.contains("absent.toml: cannot read the configuration: No such file"), "{absent}");
    assert!(Config::load(&directory.0).unwrap_err().to_string().contains("cannot read"));

    let path = directory.0.join("cluster.toml");
    fs::write(&path, b"[cluster]\nname = \"\xff\"\n").unwrap();
    let binary = Config::load(&path).unwrap_err().to_string();
    assert!(binary.ends_with("cluster.toml:2: not UTF-8 text; TOML files are"), "{binary}");

    fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("larger than"));

    fs::write(&path, GOOD).unwrap();
    assert!(Config::load(&path).is_ok());
}

#[test]
fn deep_nesting_ends_in_an_error() {
    let directory = Directory::new();
    for text in [
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        "a.".repeat(100_000),
    ] {
        assert!(!directory.errors(&text).is_empty());
    }
}

/// The example is what the documentation says it is.
#[test]
fn the_commented_example_is_accepted() {
    let directory = Directory::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/cluster.toml");
    let text = fs::read_to_string(path).unwrap();
    let key = directory.0.join("cluster.key");
    let text = text.replace("/etc/cluster/cluster.key", key.to_str().unwrap());
    let config = directory.parse(&text).unwrap();
    for node in config.host_names() {
        assert_eq!(config.settings(node).unwrap().1.warnings, []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in "(?s).{0,400}") {
        drop(Config::parse(&text, Path::new("/nonexistent/cluster.toml")));
    }

    /// Texts that are nearly right get further than random ones.
    #[test]
    fn no_mutation_panics(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20, "[\\[\\]{}\"'=.,\n#0-9a-z/:-]{0,6}"), 1..6)
    ) {
        let mut text = FULL.to_owned();
        for (at, length, insert) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &insert);
        }
        if let Err(errors) = Config::parse(&text, Path::new("/nonexistent/cluster.toml")) {
            prop_assert!(errors.iter().count() > 0);
            let lines = 1 + text.matches('\n').count();
            prop_assert!(errors.iter().all(|error| error.line.is_some_and(|line| (1..=lines).contains(&line))));
        }
    }

    #[test]
    fn any_timing_is_accepted_exactly_if_it_keeps_the_rules(
        heartbeat in 500_u64..20_000, lease in 1_000_u64..80_000, dead_after in 1_000_u64..90_000
    ) {
        let directory = Directory::new();
        let timing = format!(
            "[timing]\nheartbeat = \"{heartbeat}us\"\nlease = \"{lease}us\"\ndead_after = \"{dead_after}us\"\n"
        );
        let accepted = directory.parse(&(timing + GOOD)).is_ok();
        let keeps = heartbeat >= 1_000 && lease >= 3 * heartbeat && 10 * dead_after >= 11 * lease;
        prop_assert_eq!(accepted, keeps);
    }
}

/// `GOOD` with so many more nodes: n2, n3, …, each with these further lines.
fn with_more_nodes(count: usize, lines: &str) -> String {
    let node = |n: usize| {
        format!(
            "[[node]]\nname = \"n{n}\"\ninterface = \"eth0\"\naddresses = [\"10.78.0.{n}\", \"10.77.0.{n}\"]\n{lines}\n"
        )
    };
    let more: String = (0..count).map(|n| node(n + 3)).collect();
    format!("{GOOD}{more}")
}

#[test]
fn three_voters_decide_by_majority_and_two_do_not() {
    let directory = Directory::new();
    let quorum = |text: &str| directory.parse(text).unwrap().settings("a").unwrap().0.quorum;
    let in_cluster =
        |text: &str, line: &str| text.replace("name = \"edge\"", &format!("name = \"edge\"\n{line}"));
    assert_eq!(quorum(GOOD), Quorum::Off);
    assert_eq!(quorum(&with_more_nodes(1, "")), Quorum::Majority);
    assert_eq!(quorum(&with_more_nodes(1, "voter = false")), Quorum::Off);
    assert_eq!(quorum(&in_cluster(&with_more_nodes(1, ""), "quorum = \"off\"")), Quorum::Off);
    assert_eq!(quorum(&in_cluster(GOOD, "quorum = \"majority\"")), Quorum::Majority);

    let (settings, local) =
        directory.parse(&with_more_nodes(2, "voter = false")).unwrap().settings("b").unwrap();
    let votes: Vec<bool> = settings.peers.iter().map(|peer| peer.voter).collect();
    assert_eq!((settings.voter, votes), (true, vec![true, false, false]));
    assert_eq!(local.peers.len(), 3);
    assert_eq!(settings.groups[0].prefer.len(), 4, "whoever does not vote may serve all the same");
}

#[test]
fn there_are_bounds_on_nodes_and_voters() {
    let directory = Directory::new();
    assert_eq!(directory.errors(&with_more_nodes(7, "")), []);
    let too_many_voters = directory.errors(&with_more_nodes(8, ""));
    let [(_, key, message)] = &too_many_voters[..] else { panic!("{too_many_voters:?}") };
    assert_eq!(key, "node[9].voter");
    assert!(
        message.contains("at most 9 nodes vote, not 10") && message.contains("voter = false"),
        "{message}"
    );
    assert_eq!(directory.errors(&with_more_nodes(30, "voter = false")), []);
    let too_many = directory.errors(&with_more_nodes(31, "voter = false"));
    let [(_, key, message)] = &too_many[..] else { panic!("{too_many:?}") };
    assert!(key == "node[32]" && message.contains("at most 32 nodes, not 33"), "{key} {message}");
    let nobody = directory.errors(&GOOD.replace("\naddresses", "\nvoter = false\naddresses"));
    assert!(
        nobody.iter().any(|(_, key, message)| key == "node[0].voter" && message.contains("must vote")),
        "{nobody:?}"
    );
    let wrong = directory.errors(&with_more_nodes(1, "voter = \"no\""));
    let [(_, key, message)] = &wrong[..] else { panic!("{wrong:?}") };
    assert!(key == "node[2].voter" && message.contains("true or false"), "{key} {message}");
}

#[test]
fn what_a_quorum_means_for_so_few_or_many_is_warned_about() {
    let directory = Directory::new();
    let in_cluster =
        |text: &str, line: &str| text.replace("name = \"edge\"", &format!("name = \"edge\"\n{line}"));
    let warned = |text: &str, part: &str| {
        let (_, local) = directory.parse(text).unwrap().settings("a").unwrap();
        local.warnings.iter().any(|warning| warning.to_string().contains(part))
    };
    assert!(warned(&in_cluster(&with_more_nodes(1, ""), "quorum = \"off\""), "each part serves by itself"));
    assert!(!warned(&with_more_nodes(1, ""), "quorum"));
    assert!(warned(&in_cluster(GOOD, "quorum = \"majority\""), "nobody serves"));
    assert!(!warned(GOOD, "quorum"));
    let gateway = "gateway = \"10.77.0.254\"\n";
    let nodes = with_more_nodes(1, "");
    let with_gateway = nodes.replacen("vips = ", &format!("{gateway}vips = "), 1);
    assert!(warned(&with_gateway, "is not asked"));
}

const IPV6: &str = r#"[cluster]
name = "edge"
key_file = "cluster.key"

[[node]]
name = "a"
interface = "eth0"
addresses = ["fd78::1", "10.77.0.1", "2001:db8:77::1"]

[[node]]
name = "b"
interface = "eth0"
addresses = ["fd78::2", "10.77.0.2", "2001:db8:77::2"]

[[witness]]
name = "w"
addresses = ["fd78::9"]

[[group]]
name = "web"
vips = ["fd77::100/64", "10.77.0.100/24", "2001:db8:77::0:100/64", "2001:db8:78::1/128"]
"#;

#[test]
fn families_may_be_mixed_in_a_group_and_among_paths() {
    let directory = Directory::new();
    let (settings, local) = directory.parse(IPV6).unwrap().settings("a").unwrap();
    let group = &settings.groups[0];
    assert_eq!(group.vips, ["fd77::100", "10.77.0.100", "2001:db8:77::100", "2001:db8:78::1"].map(address));
    assert_eq!(local.groups[0].vips.iter().map(|vip| vip.prefix).collect::<Vec<_>>(), [64, 24, 64, 128]);
    let paths = |peer: usize| {
        let ends = local.peers[peer].paths.iter();
        ends.map(|path| format!("{} {}", path.local, path.remote)).collect::<Vec<_>>()
    };
    assert_eq!(
        paths(0),
        [
            "[fd78::1]:4780 [fd78::2]:4780",
            "10.77.0.1:4780 10.77.0.2:4780",
            "[2001:db8:77::1]:4780 [2001:db8:77::2]:4780"
        ]
    );
    assert_eq!(paths(1), ["[fd78::1]:4780 [fd78::9]:4780"]);
    let services = |peer: usize| settings.peers[peer].paths.iter().map(|path| path.service);
    assert_eq!(services(0).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(local.warnings, []);
}

#[test]
fn ipv6_addresses_that_no_host_can_have_are_refused() {
    let directory = Directory::new();
    assert_eq!(directory.errors(IPV6), []);
    #[rustfmt::skip]
    let cases: &[(&str, &str, usize, &str, &str)] = &[
        ("\"fd78::2\"", "\"10.78.0.2\"", 13, "node[1].addresses[0]", "10.78.0.2 is IPv4, and fd78::1, the address of node \"a\" at the same position, is IPv6"),
        ("\"10.77.0.2\"", "\"fd77::2\"", 13, "node[1].addresses[1]", "both are IPv4 or both IPv6"),
        ("\"fd78::9\"", "\"10.78.0.9\"", 17, "witness[0].addresses[0]", "the address of node \"a\" at the same position"),
        ("\"fd78::2\"", "\"fd78:0::1\"", 13, "node[1].addresses[0]", "fd78::1 is an address of node \"a\" too"),
        ("\"fd78::2\"", "\"::\"", 13, "node[1].addresses[0]", "belongs to no host"),
        ("\"fd78::2\"", "\"::1\"", 13, "node[1].addresses[0]", "loopback"),
        ("\"fd78::2\"", "\"::10.78.0.2\"", 13, "node[1].addresses[0]", "belongs to no host"),
        ("\"fd78::2\"", "\"::ffff:10.78.0.2\"", 13, "node[1].addresses[0]", "write \"10.78.0.2\""),
        ("\"fd78::2\"", "\"ff05::2\"", 13, "node[1].addresses[0]", "multicast"),
        ("\"fd78::2\"", "\"fe80::2\"", 13, "node[1].addresses[0]", "is a link-local address; use a global address"),
        ("\"fd78::2\"", "\"fe80::2%eth0\"", 13, "node[1].addresses[0]", "no interface is named here"),
        ("\"fd78::2\"", "\"fd78::2/64\"", 13, "node[1].addresses[0]", "must be an IPv4 or IPv6 address"),
        ("fd77::100/64", "fd77::100", 21, "group[0].vips[0]", "write \"fd77::100/64\" if its network has 64 bits"),
        ("fd77::100/64", "fd77::100/129", 21, "group[0].vips[0]", "from 1 to 128"),
        ("fd77::100/64", "fd77::100/0", 21, "group[0].vips[0]", "from 1 to 128"),
        ("fd77::100/64", "fd77::/64", 21, "group[0].vips[0]", "the subnet-router anycast address of its /64"),
        ("fd77::100/64", "fe80::100/64", 21, "group[0].vips[0]", "link-local"),
        ("fd77::100/64", "fe80::100%eth0/64", 21, "group[0].vips[0]", "no interface is named here"),
        ("fd77::100/64", "::1/128", 21, "group[0].vips[0]", "loopback"),
        ("fd77::100/64", "::/64", 21, "group[0].vips[0]", "belongs to no host"),
        ("fd77::100/64", "ff02::1/64", 21, "group[0].vips[0]", "multicast"),
        ("fd77::100/64", "::ffff:10.77.0.101/120", 21, "group[0].vips[0]", "write \"10.77.0.101\""),
        ("fd77::100/64", "fd78::1/64", 21, "group[0].vips[0]", "an address of node \"a\""),
        ("fd77::100/64", "2001:db8:77::100/128", 21, "group[0].vips[2]", "listed twice"),
        ("fd77::100/64", "fd77::g/64", 21, "group[0].vips[0]", "an address and its prefix"),
    ];
    for (from, to, line, key, words) in cases {
        assert_eq!(IPV6.matches(from).count(), 1, "{from:?} must be in the file once");
        let errors = directory.errors(&IPV6.replace(from, to));
        let [error] = &errors[..] else { panic!("{to:?}: {errors:#?}") };
        assert!(error.0 == *line && error.1 == *key && error.2.contains(words), "{to:?}: {error:#?}");
    }
    // Networks of two addresses have no anycast address.
    assert_eq!(directory.errors(&IPV6.replace("fd77::100/64", "fd77::100/127")), []);
}

const WITNESS: &str = "[[witness]]\nname = \"w\"\naddresses = [\"10.79.0.9\"]\nport = 4790\n";

#[test]
fn a_witness_votes_and_is_in_no_group() {
    let directory = Directory::new();
    let config = directory.parse(&format!("{GOOD}{WITNESS}")).unwrap();
    assert_eq!(config.host_names().collect::<Vec<_>>(), ["a", "b", "w"]);
    let (a, b, w) = (NodeId::from_name("a"), NodeId::from_name("b"), NodeId::from_name("w"));

    let (settings, local) = config.settings("a").unwrap();
    assert_eq!((settings.quorum, local.kind()), (Quorum::Majority, HostKind::Node));
    assert_eq!(
        settings.peers.iter().map(|peer| (peer.id, peer.voter)).collect::<Vec<_>>(),
        [(b, true), (w, true)]
    );
    assert_eq!(
        local.peers.iter().map(|peer| peer.kind).collect::<Vec<_>>(),
        [HostKind::Node, HostKind::Witness]
    );
    assert_eq!(settings.groups[0].prefer, [a, b], "a witness never serves");
    // As many paths as both ends have addresses.
    assert_eq!((settings.peers[0].paths.len(), settings.peers[1].paths.len()), (2, 1));
    assert_eq!(local.peers[1].paths[0].remote.to_string(), "10.79.0.9:4790");
    assert_eq!(local.warnings, []);

    let (settings, local) = config.settings("w").unwrap();
    assert_eq!((settings.me, settings.voter, settings.quorum), (w, true, Quorum::Majority));
    assert_eq!((local.kind(), &local.service, local.port), (HostKind::Witness, &None, 4790));
    assert_eq!(local.groups[0].priority, None);
    assert_eq!(settings.groups[0].prefer, [a, b]);
    assert_eq!(settings.peers.iter().map(|peer| peer.paths.len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(local.peers[1].paths[0].local.to_string(), "10.79.0.9:4790");
    assert_eq!(local.warnings, [], "what is said of members and service paths is not for a witness");
}

/// A path to a witness is on the service link only if no router is between.
#[test]
fn a_routed_witness_says_nothing_of_the_service_link() {
    let directory = Directory::new();
    for (address, service) in [("10.79.0.9", false), ("10.77.0.9", true)] {
        let witness = format!("[[witness]]\nname = \"w\"\naddresses = [\"10.78.0.9\", \"{address}\"]\n");
        let config = directory.parse(&format!("{GOOD}{witness}")).unwrap();
        let (settings, _) = config.settings("a").unwrap();
        let services =
            |peer: usize| settings.peers[peer].paths.iter().map(|path| path.service).collect::<Vec<_>>();
        assert_eq!(services(0), [false, true]);
        assert_eq!(services(1), [false, service], "{address}");
        let (settings, _) = config.settings("w").unwrap();
        assert!(settings.peers.iter().flat_map(|peer| &peer.paths).all(|path| !path.service));
    }
}

#[test]
fn each_error_about_a_witness_is_found_where_it_is() {
    let directory = Directory::new();
    let witness = |lines: &str| format!("{GOOD}[[witness]]\n{lines}\n");
    let nine: String = (0..9)
        .map(|n| format!("[[witness]]\nname = \"w{n}\"\naddresses = [\"10.78.0.{}\"]\n", n + 10))
        .collect();
    let cases = [
        (witness("name = \"w\""), "witness[0].addresses", "missing"),
        (witness("addresses = [\"10.78.0.9\"]"), "witness[0].name", "missing"),
        (witness("name = \"a\"\naddresses = [\"10.78.0.9\"]"), "witness[0].name", "a node is called \"a\""),
        (
            witness("name = \"w\"\naddresses = [\"10.78.0.2\"]"),
            "witness[0].addresses[0]",
            "of node \"b\" too",
        ),
        (
            witness("name = \"w\"\naddresses = [\"10.78.0.9\"]\ninterface = \"eth0\""),
            "witness[0].interface",
            "unknown key",
        ),
        (
            witness("name = \"w\"\naddresses = [\"10.78.0.9\"]\nvoter = false"),
            "witness[0].voter",
            "unknown key",
        ),
        (
            witness("name = \"w\"\naddresses = [\"10.78.0.9\", \"10.78.0.8\", \"10.78.0.7\"]"),
            "witness[0].addresses",
            "at most as many addresses as the nodes have (2), not 3",
        ),
        (
            format!("{GOOD}prefer = [\"a\", \"w\"]\n{WITNESS}"),
            "group[0].prefer[1]",
            "\"w\" is a witness: it votes and never serves",
        ),
        (
            format!("{}{WITNESS}", GOOD.replace("10.77.0.100", "10.79.0.9")),
            "group[0].vips[0]",
            "an address of witness \"w\"",
        ),
        (format!("{GOOD}{nine}"), "witness[7]", "at most 9 nodes and witnesses vote, not 11"),
        (
            GOOD.to_owned() + "[witness]\nname = \"w\"\naddresses = [\"10.78.0.9\"]\n",
            "witness",
            "two brackets",
        ),
    ];
    for (text, key, words) in cases {
        let errors = directory.errors(&text);
        assert!(
            errors.len() == 1 && errors[0].1 == key && errors[0].2.contains(words) && errors[0].0 > 1,
            "{key}: …{words}…: {errors:#?}"
        );
    }
    let seven: String = nine.split_inclusive("]\n").take(14).collect();
    assert_eq!(directory.errors(&format!("{GOOD}{seven}")), [], "nine voters");
}

#[test]
fn a_witness_that_decides_nothing_is_warned_about() {
    let directory = Directory::new();
    let off = |text: &str| text.replace("name = \"edge\"", "name = \"edge\"\nquorum = \"off\"");
    let text = off(&GOOD.replace("name = \"b\"", "name = \"b\"\nvoter = false"));
    let (_, local) = directory.parse(&format!("{text}{WITNESS}")).unwrap().settings("a").unwrap();
    assert_eq!(local.warnings, [Warning::WitnessWithoutMajority { witnesses: 1 }]);
    assert!(local.warnings[0].to_string().contains("the witness decides nothing"));
    let (_, local) = directory.parse(&format!("{}{WITNESS}", off(GOOD))).unwrap().settings("a").unwrap();
    assert_eq!(local.warnings, [Warning::QuorumOff { voters: 3 }]);
}

/// What two nodes and a witness protect from is not what two nodes alone do.
#[test]
fn two_nodes_and_a_witness_are_protected_from_a_partition() {
    let directory = Directory::new();
    let said = |text: &str, name: &str| {
        let (settings, local) = directory.parse(text).unwrap().settings(name).unwrap();
        let said = Protection::of(&settings, &local);
        (said.protects.join("\n"), said.not.join("\n"))
    };
    let with = format!("{GOOD}{WITNESS}");
    let (protects, not) = said(GOOD, "a");
    assert!(protects.contains("the loss of a node: the other one serves after 50ms"), "{protects}");
    assert!(not.contains("both nodes may serve until one is mended"), "{not}");
    for name in ["a", "w"] {
        let (protects, not) = said(&with, name);
        assert!(protects.contains("the loss of a node: the other one serves after 50ms"), "{protects}");
        assert!(protects.contains("the loss of the witness"), "{protects}");
        assert!(protects.contains("a partition, whatever is lost between the nodes"), "{protects}");
        assert!(not.contains("the loss of two voters at once: nobody serves"), "{not}");
        assert!(!not.contains("both nodes may serve"), "{not}");
        // The link of the nodes is no matter of a witness.
        assert_eq!(protects.contains("service link"), name == "a", "{protects}");
    }
}

#[test]
fn a_node_or_witness_may_have_a_processor_of_its_own() {
    let directory = Directory::new();
    let with_cpu = |cpu: &str| {
        format!(
            "{}{WITNESS}cpu = {cpu}\n",
            GOOD.replace("name = \"b\"", &format!("name = \"b\"\ncpu = {cpu}"))
        )
    };
    let config = directory.parse(&with_cpu("3")).unwrap();
    let cpu = |name: &str| config.settings(name).unwrap().1.cpu;
    assert_eq!((cpu("a"), cpu("b"), cpu("w")), (None, Some(3), Some(3)));
    for wrong in ["-1", "1024", "\"0\"", "[1]"] {
        let errors = directory.errors(&with_cpu(wrong));
        let keys: Vec<_> = errors.iter().map(|error| error.1.as_str()).collect();
        assert_eq!(keys, ["node[1].cpu", "witness[0].cpu"], "{errors:#?}");
    }
}

#[test]
fn a_chained_program_is_named_by_its_pin() {
    let directory = Directory::new();
    let text = GOOD.replace("name = \"b\"", "name = \"b\"\nxdp = \"chain\"\nchain = \"/sys/fs/bpf/mine\"");
    let (_, local) = directory.parse(&text).expect("it is right").settings("b").expect("b is there");
    let service = local.service.expect("b serves");
    assert_eq!((service.xdp, service.chain), (XdpMode::Auto, Some("/sys/fs/bpf/mine".into())));
}
