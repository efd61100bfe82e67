//! Which server a call goes to.

use std::collections::BTreeSet;

use crate::support::greeter::{Greeter, SAY_HELLO, ask, target_of};
use crate::support::{close_without_leaks, plaintext};

#[tokio::test]
async fn clients_that_shuffle_spread_over_the_servers_and_others_take_the_first() {
    let greeters = [Greeter::start(), Greeter::start(), Greeter::start()];
    let mut chosen = BTreeSet::new();
    for seed in 0..30 {
        let shuffled = plaintext(target_of(&greeters))
            .default_service_config(
                r#"{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}"#,
            )
            .seed(seed);
        let channel = shuffled.build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        chosen.insert(reply.peer().to_string());
        let again = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(again.peer(), reply.peer(), "all calls of a channel go to one server");
        channel.close().await;

        let channel = plaintext(target_of(&greeters)).seed(seed).build().unwrap();
        let reply = channel.invoke(&SAY_HELLO, ask("Ada")).await.unwrap();
        assert_eq!(reply.peer().to_string(), greeters[0].address().to_string());
        close_without_leaks(channel, &greeters).await;
    }
    assert_eq!(chosen.len(), 3, "{chosen:?}");
}
