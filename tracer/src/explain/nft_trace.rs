//! Which rule or policy dropped a packet, told by the kernel's own rule tracing.

use super::{BaseChain, Decision, Explanation, TracedDrop, words::Words};

pub(super) fn explain(explanation: &mut Explanation, traced: TracedDrop, words: &Words) {
    let TracedDrop { base, rule } = traced;
    // Names of chains are not templates.
    let plain = |name: &str| name.replace(['{', '}'], "_");
    let (family, table, hook) = (&base.family, plain(&base.table), &base.hook);
    let first = plain(&base.chain);
    let chain = rule.as_ref().map_or(&base.chain, |(chain, _)| chain).clone();
    explanation.why = words.sentence(&match &rule {
        None => format!(
            "no rule of chain {family} {table} {first} at {hook} in {{netns}} decided about it, and \
             its policy is to drop"
        ),
        Some((chain, handle)) if *chain == base.chain => format!(
            "the rule with handle {handle} of chain {family} {table} {first} at {hook} in {{netns}} \
             dropped it"
        ),
        Some((chain, handle)) => format!(
            "the rule with handle {handle} of chain {family} {table} {}, which chain {first} at \
             {hook} in {{netns}} leads to, dropped it",
            plain(chain)
        ),
    });
    let word = |name: &str| plain(&super::quoted(name));
    let list = format!("{{exec}}nft -a list chain {family} {} {}", word(&base.table), word(&chain));
    explanation.advice.extend(words.fill(&list));
    explanation.evidence.insert("nft_trace".to_owned(), true.into());
    explanation.rule = Some(Decision {
        policy: Some(rule.is_none()),
        handle: rule.map(|(_, handle)| handle),
        chain: BaseChain { chain, ..base },
        text: None,
    });
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::{
        event::{InHook, What},
        host::symbols::Function,
        journey::sample::{drop, enter, hook, journeys, packet, udp},
    };

    /// A host that traces its rules, and knows nothing else.
    struct Traced(Option<(&'static str, u64)>);

    impl KernelNames for Traced {
        fn reason(&self, number: u32) -> Option<&str> {
            Some(if number == 12 { "NETFILTER_DROP" } else { "DUP_FRAG" })
        }

        fn symbol(&self, _: u64) -> Option<Function<'_>> {
            None
        }
    }

    impl Names for Traced {
        fn netns(&self, _: u32) -> NetnsName {
            NetnsName { name: Some("c1".to_owned()), ..NetnsName::default() }
        }

        fn device(&self, _: Place) -> DeviceName {
            DeviceName::default()
        }
    }

    impl Evidence for Traced {
        fn bracket(&self, _: u32, _: InHook) -> Option<Bracket> {
            None
        }

        fn sysctl(&self, _: u32, _: &str) -> Option<String> {
            None
        }

        fn traced(&self, _: u32, _: Option<InHook>, _: &Journey) -> Option<TracedDrop> {
            let base = BaseChain {
                backend: "nftables".to_owned(),
                family: "inet".to_owned(),
                table: "lab".to_owned(),
                chain: "f".to_owned(),
                hook: "forward".to_owned(),
                priority: 0,
                policy_drops: Some(true),
            };
            Some(TracedDrop { base, rule: self.0.map(|(chain, handle)| (chain.into(), handle)) })
        }
    }

    fn explained(host: &Traced, reason: u32, in_hook: bool) -> Explanation {
        let in_hook = in_hook.then(|| hook(Hook::Forward, 2));
        let query = packet(1, udp("10.0.0.2", 4000, "203.0.113.8", 53)).see(What::DevReceive);
        let dropped = query.see(enter(Hook::Forward)).see(drop(reason, in_hook));
        explain(&journeys(dropped.events())[0], host).unwrap()
    }

    #[test]
    fn a_rule_is_named_with_the_chain_that_it_stands_in() {
        for in_hook in [true, false] {
            let said = explained(&Traced(Some(("sub", 9))), 12, in_hook);
            let rule = said.rule.unwrap();
            assert_eq!((rule.chain.chain.as_str(), rule.handle), ("sub", Some(9)));
            assert_eq!((rule.chain.hook.as_str(), rule.policy), ("forward", Some(false)));
            assert_eq!(
                said.why,
                "the rule with handle 9 of chain inet lab sub, which chain f at forward in \
                 namespace c1 leads to, dropped it"
            );
            assert_eq!(said.advice, ["ip netns exec c1 nft -a list chain inet lab sub"]);
            assert_eq!(said.evidence["nft_trace"], true);
        }
        let said = explained(&Traced(Some(("f", 9))), 12, true);
        let expected = "the rule with handle 9 of chain inet lab f at forward in namespace c1";
        assert!(said.why.starts_with(expected), "{}", said.why);
    }

    #[test]
    fn a_policy_has_no_handle() {
        let said = explained(&Traced(None), 12, true);
        let rule = said.rule.unwrap();
        assert_eq!((rule.handle, rule.policy, rule.chain.chain.as_str()), (None, Some(true), "f"));
        assert!(said.why.ends_with("its policy is to drop"), "{}", said.why);
    }

    #[test]
    fn another_reason_is_not_blamed_on_a_rule() {
        assert_eq!(explained(&Traced(None), 13, true).rule, None);
    }
}
