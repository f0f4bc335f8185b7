use std::time::Duration;

use serde_json::json;

use crate::fleet::shared::fleet;
use crate::sessions::agents::{SESSION, order, spoke, stalled};
use crate::support::redis::Redis;
use crate::support::wire::Unframed;
use crate::support::{Demo, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_an_agent_reaches_its_streams_on_another_instance_and_no_others() {
    let (demo, redis) = (Demo::start().await, Redis::start().await);
    let gateways = fleet(&demo, &redis, 2).await;
    let mut main = stalled(&gateways[1], "", "").await;
    let mut one = stalled(&gateways[1], "one", "").await;
    let mut below = stalled(&gateways[1], "below", "one").await;
    gateways[0].session_until(SESSION, |session| session["open_legs"] == 3).await;
    let (status, killed) = order(&gateways[0], "kill", &json!({"reason": "runaway", "agent": "one"})).await;
    assert_eq!((status, &killed["descendants"]), (200, &json!(["below"])), "{killed}");
    for client in [&mut one, &mut below] {
        let cut = within("the cut", client.message(Unframed::UntilEnd)).await.expect("an answer");
        assert!(cut.text().contains("agent_killed"), "{}", cut.text());
    }
    for gateway in &gateways {
        for (agent, parent, status) in
            [("one", "", 403), ("below", "one", 403), ("new", "one", 403), ("", "", 200), ("other", "", 200)]
        {
            assert_eq!(spoke(gateway, agent, parent).await, status, "{agent}");
        }
    }
    let session = gateways[0].session_until(SESSION, |session| session["open_legs"] == 1).await;
    assert_eq!(session["state"], "active", "{session}");
    assert_eq!(order(&gateways[1], "resume", &json!({"agent": "one"})).await.0, 200);
    within("both to admit the agent again", async {
        while (spoke(&gateways[0], "one", "").await, spoke(&gateways[1], "below", "one").await) != (200, 200)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // The main agent's stream was not affected: it ends with the session.
    assert_eq!(gateways[0].kill(SESSION).await.status, 200);
    let cut = within("the end", main.message(Unframed::UntilEnd)).await.expect("an answer");
    assert!(cut.text().contains("session_killed"), "{}", cut.text());
}
