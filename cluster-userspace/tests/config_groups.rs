//! The configuration of groups: what is accepted and what it becomes, and what is refused, where and in which words.

#![expect(clippy::unwrap_used, reason = "a test ends where something unexpected happens")]

mod config_support;

use config_support::{Directory, GOOD, address};

#[test]
fn there_are_at_most_256_groups() {
    let directory = Directory::new();
    let group = |n: u8| format!("[[group]]\nname = \"g{n}\"\nvips = [\"192.0.2.{n}/32\"]\n");
    let groups = |count: u8| -> String { (0..count).map(group).collect() };
    let one_too_many = directory.errors(&format!("{GOOD}{}{}", groups(255), group(255)));
    assert_eq!(one_too_many[0].1, "group[256]");
    assert!(one_too_many[0].2.contains("at most 256"), "{one_too_many:?}");
    assert!(directory.parse(&format!("{GOOD}{}", groups(255))).is_ok());
}

#[test]
fn active_active_has_its_keys_and_no_others() {
    let directory = Directory::new();
    let in_group = |line: &str| format!("{GOOD}{line}\n");
    let refused = |line: &str, key: &str, why: &str| {
        let errors = directory.errors(&in_group(line));
        assert!(errors.len() == 1 && errors[0].1 == key && errors[0].2.contains(why), "{line}: {errors:#?}");
    };
    refused("hash = \"flow\"", "group[0].hash", "with `mode = \"active-active\"` only");
    refused("mode = \"active-active\"\ngrace = \"1s\"", "group[0].grace", "of no use");
    refused("mode = \"active-active\"\naddress = \"active\"", "group[0].address", "must be \"always\"");
    let config =
        directory.parse(&in_group("mode = \"active-active\"\nhash = \"source\"")).expect("a configuration");
    let (settings, local) = config.settings("a").expect("a node");
    let spread = settings.groups[0].spread.as_ref().expect("a spread group");
    assert!(spread.by_source && spread.members.len() == 2 && local.groups[0].keeps_address);
    assert_eq!(settings.groups[0].grace, std::time::Duration::ZERO);
    let config = directory.parse(&in_group("address = \"always\"")).expect("a configuration");
    let (settings, local) = config.settings("a").expect("a node");
    assert!(settings.groups[0].spread.is_none() && local.groups[0].keeps_address);
}

#[test]
fn virtual_macs_have_a_number_of_their_own() {
    let directory = Directory::new();
    let in_group = |lines: &str| format!("{GOOD}{lines}\n");
    let second = |lines: &str| format!("\n[[group]]\nname = \"db\"\nvips = [\"10.77.0.101/24\"]\n{lines}\n");
    let cases = [
        (in_group("mac = \"virtual\""), "group[0].virtual_id", "missing"),
        (in_group("virtual_id = 7"), "group[0].virtual_id", "`mac = \"virtual\"` only"),
        (in_group("mac = \"interface\"\nvirtual_id = 7"), "group[0].virtual_id", "`mac = \"virtual\"` only"),
        (in_group("mac = \"virtual\"\nvirtual_id = 0"), "group[0].virtual_id", "from 1 to 255"),
        (in_group("mac = \"virtual\"\nvirtual_id = 256"), "group[0].virtual_id", "from 1 to 255"),
        (in_group("mac = \"virtual\"\nvirtual_id = \"7\""), "group[0].virtual_id", ""),
        (in_group("mac = \"vrrp\""), "group[0].mac", "virtual"),
        (
            in_group("mac = \"virtual\"\nvirtual_id = 7") + &second("mac = \"virtual\"\nvirtual_id = 7"),
            "group[1].virtual_id",
            "group \"web\" has 7 already",
        ),
    ];
    for (text, key, words) in cases {
        let errors = directory.errors(&text);
        assert!(errors.len() == 1 && errors[0].1 == key && errors[0].2.contains(words), "{key}: {errors:#?}");
        assert!(errors[0].0 > 1, "{key} has its line: {errors:?}");
    }
    let good = in_group("mac = \"virtual\"\nvirtual_id = 7") + &second("mac = \"virtual\"\nvirtual_id = 8");
    assert!(directory.errors(&good).is_empty(), "{:#?}", directory.errors(&good));
}

#[test]
fn a_vlan_has_one_tag_or_two() {
    let directory = Directory::new();
    let vlan = |value: &str| format!("{GOOD}vlan = {value}\n");
    let cases = [
        ("0", "group[0].vlan", "from 1 to 4094"),
        ("4095", "group[0].vlan", "from 1 to 4094"),
        ("\"100\"", "group[0].vlan", "whole number"),
        ("[]", "group[0].vlan", "has 0 tags"),
        ("[1, 2, 3]", "group[0].vlan", "has 3 tags"),
        ("[200, 0]", "group[0].vlan[1]", "from 1 to 4094"),
    ];
    for (value, key, words) in cases {
        let errors = directory.errors(&vlan(value));
        assert!(
            errors.len() == 1 && errors[0].1 == key && errors[0].2.contains(words),
            "{value}: {errors:#?}"
        );
    }
    for (value, shown) in [("100", "100"), ("[200, 100]", "200.100")] {
        let config = directory.parse(&vlan(value)).expect("a good file");
        let (_, local) = config.settings("a").expect("a node of the file");
        assert_eq!(local.groups[0].vlan.map(|vlan| vlan.to_string()).as_deref(), Some(shown));
    }
}

#[test]
fn groups_are_placed_by_weight_spares_and_what_is_apart() {
    let directory = Directory::new();
    let node = |name: &str, last: u8, lines: &str| {
        format!(
            "\n[[node]]\nname = \"{name}\"\ninterface = \"eth0\"\naddresses = [\"10.78.0.{last}\", \"10.77.0.{last}\"]\n{lines}\n"
        )
    };
    let group = |name: &str, last: u8, lines: &str| {
        format!("\n[[group]]\nname = \"{name}\"\nvips = [\"10.77.0.{last}/24\"]\n{lines}\n")
    };
    let head = "[cluster]\nname = \"edge\"\nkey_file = \"cluster.key\"\n";
    let nodes =
        node("a", 1, "weight = 2") + &node("b", 2, "") + &node("s", 3, "spare = true\nmax_groups = 1");
    let groups = group("one", 101, "")
        + &group("two", 102, "")
        + &group("three", 103, "apart = [\"four\"]")
        + &group("four", 104, "prefer = [\"b\"]");
    let config = directory.parse(&format!("{head}{nodes}{groups}")).expect("a good file");
    let (settings, local) = config.settings("s").expect("a node of the file");
    let members: Vec<Vec<&str>> =
        local.groups.iter().map(|group| group.members.iter().map(String::as_str).collect()).collect();
    // Three for a, one for b, which has that already.
    assert_eq!(members, [["a", "s", "b"], ["a", "s", "b"], ["a", "s", "b"], ["b", "s", "a"]]);
    assert_eq!(settings.max_groups, Some(1));
    assert_eq!((&settings.groups[2].apart, &settings.groups[3].apart), (&vec![3], &vec![2]));

    let good =
        |lines: &str, apart: &str| format!("{head}{}{}", node("a", 1, lines), group("one", 101, apart));
    let cases = [
        (good("weight = 0", ""), "node[0].weight", "from 1 to 1000"),
        (good("spare = 1", ""), "node[0].spare", "true or false"),
        (good("max_groups = 0", ""), "node[0].max_groups", "from 1 to 256"),
        (good("", "apart = [\"one\"]"), "group[0].apart[0]", "apart from itself"),
        (good("", "apart = [\"onne\"]"), "group[0].apart[0]", "did you mean \"one\""),
        (good("", "apart = \"one\""), "group[0].apart", "an array"),
    ];
    for (text, key, words) in cases {
        let errors = directory.errors(&text);
        assert!(errors.len() == 1 && errors[0].1 == key && errors[0].2.contains(words), "{key}: {errors:#?}");
    }
}

#[test]
fn a_gateway_is_a_router_on_the_vips_network() {
    let directory = Directory::new();
    let with = |gateway: &str| GOOD.replacen("vips = ", &format!("gateway = \"{gateway}\"\nvips = "), 1);
    let (settings, _) = directory.parse(&with("10.77.0.254")).unwrap().settings("a").unwrap();
    assert_eq!(settings.groups[0].gateway, Some(address("10.77.0.254")));
    for (gateway, part) in [
        ("10.77.0.1", "an address of node"),
        ("10.77.0.100", "is a VIP of this group"),
        ("10.79.0.254", "in no VIP's network"),
        ("router", "address"),
        ("fd77::254", "in no VIP's network"),
        ("fe80::1", "in no VIP's network"),
        ("ff02::2", "multicast"),
    ] {
        let errors = directory.errors(&with(gateway));
        let [(_, key, message)] = &errors[..] else { panic!("{gateway}: {errors:?}") };
        assert!(key == "group[0].gateway" && message.contains(part), "{gateway}: {message}");
    }
}

#[test]
fn an_ipv6_gateway_may_be_link_local() {
    let directory = Directory::new();
    let with = |gateway: &str| {
        let vips = format!("gateway = \"{gateway}\"\nvips = [\"fd77::100/64\", ");
        GOOD.replacen("vips = [", &vips, 1)
    };
    for gateway in ["fd77::fe", "fe80::1", "10.77.0.254"] {
        let (settings, _) = directory.parse(&with(gateway)).unwrap().settings("a").unwrap();
        assert_eq!(settings.groups[0].gateway, Some(address(gateway)));
    }
    for (gateway, part) in [
        ("fd77:0:0:1::1", "in no VIP's network"),
        ("fe80::1%eth0", "write its address alone"),
        ("fd77::100", "is a VIP of this group"),
        ("::", "belongs to no host"),
    ] {
        let errors = directory.errors(&with(gateway));
        let [(_, key, message)] = &errors[..] else { panic!("{gateway}: {errors:?}") };
        assert!(key == "group[0].gateway" && message.contains(part), "{gateway}: {message}");
    }
}
