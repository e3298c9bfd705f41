//! Which node is to serve which group (N+1, N+M): the rank of the nodes for each group, and who would serve what if nodes were gone.
//!
//! Ranks follow from the configuration alone, so that all nodes with the same file have the same. The election goes by them:
//! the best-ranked node that is fit stands. A node that takes no more groups, or has one from which another should be apart,
//! is taken account of there; here it is only foreseen ([`plan`]).
//!
//! A group without an order of its own goes to a serving node, of all the one with the fewest groups for its weight; when that
//! is lost, to a spare, and without one to another serving node. So a loss moves the lost node's groups only, and these are
//! shared among those that take them.

/// A node that may serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// How many groups it gets in comparison with others, at least 1.
    pub weight: u32,
    /// Whether it takes groups only when a serving node is gone.
    pub spare: bool,
    /// How many groups it takes at most; any number if `None`.
    pub max_groups: Option<usize>,
}

/// A group that is to be placed. Nodes are given by their place in the list of nodes, groups likewise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The nodes that it names, best first; it is placed by weight if it names none.
    pub prefer: Vec<usize>,
    /// All nodes that may hold it, in the order of the nodes.
    pub members: Vec<usize>,
    /// Groups that should be on other nodes.
    pub apart: Vec<usize>,
}

/// For each group the nodes that may hold it, best first.
#[must_use]
pub fn ranks(nodes: &[Place], groups: &[Placed]) -> Vec<Vec<usize>> {
    let homes = homes(nodes, groups);
    let mut homed = vec![0; nodes.len()];
    for home in homes.iter().flatten() {
        homed[*home] += 1;
    }
    // How many groups of a node each other one would take over, so that they are shared.
    let mut inherited = vec![vec![0; nodes.len()]; nodes.len()];
    groups
        .iter()
        .zip(&homes)
        .map(|(group, home)| {
            let mut rank = group.prefer.clone();
            rank.extend(home.filter(|home| !rank.contains(home)));
            let mut rest: Vec<usize> =
                group.members.iter().copied().filter(|node| !rank.contains(node)).collect();
            let inherits = home.map(|home| &inherited[home]);
            let load = |node: usize| homed[node] + inherits.map_or(0, |inherits| inherits[node]);
            // Spares first: that is what they are for.
            rest.sort_by(|&a, &b| {
                nodes[b].spare.cmp(&nodes[a].spare).then(by_load((load(a), nodes[a]), (load(b), nodes[b])))
            });
            rank.extend(rest);
            if let [home, next, ..] = *rank {
                inherited[home][next] += 1;
            }
            rank
        })
        .collect()
}

/// Where each group is when all nodes are there: `None` for one without members.
fn homes(nodes: &[Place], groups: &[Placed]) -> Vec<Option<usize>> {
    let mut homes: Vec<Option<usize>> = groups.iter().map(|group| group.prefer.first().copied()).collect();
    let mut load = vec![0; nodes.len()];
    for home in homes.iter().flatten() {
        load[*home] += 1;
    }
    for (place, group) in groups.iter().enumerate() {
        if homes[place].is_some() {
            continue;
        }
        let is_apart = |node: usize| !group.apart.iter().any(|&other| homes[other] == Some(node));
        let best = group.members.iter().copied().min_by(|&a, &b| {
            let last = |node: usize| (nodes[node].spare, is_full(nodes[node], load[node]), !is_apart(node));
            last(a).cmp(&last(b)).then(by_load((load[a], nodes[a]), (load[b], nodes[b])))
        });
        homes[place] = best;
        if let Some(best) = best {
            load[best] += 1;
        }
    }
    homes
}

/// Who would serve each group if only some nodes were there: groups stay on `present` nodes that are, the others go by rank to one
/// that takes another group, apart from others if that can be; `None` for a group that nobody could take.
#[must_use]
pub fn plan(
    nodes: &[Place],
    groups: &[Placed],
    present: &[Option<usize>],
    is_there: impl Fn(usize) -> bool,
) -> Vec<Option<usize>> {
    let mut served: Vec<Option<usize>> = (0..groups.len())
        .map(|group| present.get(group).copied().flatten().filter(|&node| is_there(node)))
        .collect();
    let mut load = vec![0; nodes.len()];
    for node in served.iter().flatten() {
        load[*node] += 1;
    }
    for (group, rank) in ranks(nodes, groups).iter().enumerate() {
        if served[group].is_some() {
            continue;
        }
        let mut able =
            rank.iter().copied().filter(|&node| is_there(node) && !is_full(nodes[node], load[node]));
        let is_apart = |&node: &usize| !groups[group].apart.iter().any(|&other| served[other] == Some(node));
        let taken = able.clone().find(is_apart).or_else(|| able.next());
        served[group] = taken;
        if let Some(node) = taken {
            load[node] += 1;
        }
    }
    served
}

fn is_full(node: Place, load: usize) -> bool {
    node.max_groups.is_some_and(|most| load >= most)
}

/// Who has less for its weight comes first.
fn by_load((a, of_a): (usize, Place), (b, of_b): (usize, Place)) -> std::cmp::Ordering {
    // With one more each, so that of two that have none the heavier comes first.
    let share = |load: usize, other: Place| (load as u128 + 1) * u128::from(other.weight.max(1));
    share(a, of_b).cmp(&share(b, of_a))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVING: Place = Place { weight: 1, spare: false, max_groups: None };

    fn anywhere(nodes: usize) -> Placed {
        Placed { prefer: Vec::new(), members: (0..nodes).collect(), apart: Vec::new() }
    }

    fn served_by(served: &[Option<usize>], node: usize) -> usize {
        served.iter().filter(|&&by| by == Some(node)).count()
    }

    #[test]
    fn one_group_goes_to_the_first_node_and_from_there_to_the_next() {
        assert_eq!(ranks(&[SERVING; 3], &[anywhere(3)]), [[0, 1, 2]]);
    }

    #[test]
    fn groups_are_spread_by_weight() {
        let nodes = [SERVING, Place { weight: 2, ..SERVING }, Place { weight: 3, ..SERVING }];
        let served = plan(&nodes, &vec![anywhere(3); 60], &[], |_| true);
        assert_eq!([0, 1, 2].map(|node| served_by(&served, node)), [10, 20, 30]);
    }

    #[test]
    fn an_order_of_its_own_is_kept_and_spares_follow() {
        let nodes = [SERVING, SERVING, Place { spare: true, ..SERVING }];
        let group = Placed { prefer: vec![1], ..anywhere(3) };
        assert_eq!(ranks(&nodes, &[group]), [[1, 2, 0]]);
    }

    /// Six groups on three nodes, and two spares that take two each.
    #[test]
    fn spares_share_the_groups_of_any_one_and_any_two_lost_nodes() {
        let spare = Place { spare: true, max_groups: Some(2), ..SERVING };
        let nodes = [SERVING, SERVING, SERVING, spare, spare];
        let groups = vec![anywhere(5); 6];
        let home = plan(&nodes, &groups, &[], |_| true);
        assert_eq!([0, 1, 2, 3, 4].map(|node| served_by(&home, node)), [2, 2, 2, 0, 0]);
        for first in 0..5 {
            for second in first..5 {
                let served = plan(&nodes, &groups, &home, |node| node != first && node != second);
                for (before, after) in home.iter().zip(&served) {
                    let lost = *before == Some(first) || *before == Some(second);
                    assert!(after.is_some() && (lost || before == after), "{first} {second}: {served:?}");
                }
                assert!([3, 4].iter().all(|&spare| served_by(&served, spare) <= 2), "{served:?}");
                if first == second && first < 3 {
                    assert_eq!([3, 4].map(|spare| served_by(&served, spare)), [1, 1], "{served:?}");
                }
            }
        }
    }

    #[test]
    fn groups_are_kept_apart_while_that_can_be() {
        let nodes = [Place { weight: 9, ..SERVING }, SERVING];
        let mut groups = vec![anywhere(2); 2];
        (groups[0].apart, groups[1].apart) = (vec![1], vec![0]);
        let home = plan(&nodes, &groups, &[], |_| true);
        assert_eq!(home, [Some(0), Some(1)]);
        assert_eq!(plan(&nodes, &groups, &home, |node| node == 0), [Some(0), Some(0)]);
    }

    fn clusters() -> impl Strategy<Value = (Vec<Place>, Vec<Placed>)> {
        let place = (1_u32..5, any::<bool>(), proptest::option::of(1_usize..4));
        let place = place.prop_map(|(weight, spare, max_groups)| Place { weight, spare, max_groups });
        (proptest::collection::vec(place, 1..6), 1_usize..8).prop_flat_map(|(nodes, count)| {
            let members =
                proptest::sample::subsequence((0..nodes.len()).collect::<Vec<_>>(), 0..=nodes.len());
            let group = (members, any::<bool>(), proptest::collection::vec(0..count, 0..3));
            let groups = proptest::collection::vec(group, count).prop_map(|drawn| {
                drawn
                    .into_iter()
                    .map(|(members, ordered, apart)| {
                        let prefer =
                            if ordered { members.iter().rev().copied().collect() } else { Vec::new() };
                        Placed { prefer, members, apart }
                    })
                    .collect::<Vec<_>>()
            });
            (Just(nodes), groups)
        })
    }

    proptest! {
        #[test]
        fn every_member_has_a_rank_and_nobody_else((nodes, groups) in clusters()) {
            for (group, rank) in groups.iter().zip(ranks(&nodes, &groups)) {
                let mut sorted = rank.clone();
                sorted.sort_unstable();
                prop_assert_eq!(&sorted, &group.members);
                prop_assert!(rank.starts_with(&group.prefer));
            }
        }

        #[test]
        fn a_loss_moves_no_group_of_another_node((nodes, groups) in clusters(), lost in 0_usize..6) {
            let home = plan(&nodes, &groups, &[], |_| true);
            let served = plan(&nodes, &groups, &home, |node| node != lost);
            for ((before, after), group) in home.iter().zip(&served).zip(&groups) {
                prop_assert!(before.is_none() || *before == Some(lost) || before == after);
                prop_assert!(after.is_none_or(|node| node != lost && group.members.contains(&node)));
            }
            for (node, place) in nodes.iter().enumerate() {
                prop_assert!(place.max_groups.is_none_or(|most| served_by(&served, node) <= most));
            }
        }
    }
}
