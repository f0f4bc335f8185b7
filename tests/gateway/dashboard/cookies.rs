use std::ffi::OsStr;
use std::time::Duration;

use serde_json::json;

use crate::support::wire::Message;
use crate::support::{Backend, Call, Demo, Gateway, within};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A gateway on which the person `ada` logs in with this password; access tokens are valid for a moment.
async fn house(demo: &Demo) -> (Gateway, String) {
    let yaml = format!(
        "backend: {:?}\nauth:\n  people: {{ login: true }}\n  jwt: {{ local: {{ secret_file: '', ttl: 2s }} }}\n",
        demo.url()
    );
    let gateway = Gateway::with_variables(&yaml, &[("ELIDA_CONTROL_TOKEN", OsStr::new(TOKEN))]).await;
    let body = json!({"name": "ada", "role": "operator"});
    let made = Call::post("/control/users").header("authorization", &format!("Bearer {TOKEN}")).json(&body);
    let made = made.send(gateway.control()).await;
    assert_eq!(made.status(), 201, "{}", made.text());
    let password = made.json()["password"].as_str().expect("a password").to_owned();
    (gateway, password)
}

async fn log_in(gateway: &Gateway, password: &str) -> String {
    let body = json!({"username": "ada", "password": password});
    let answer = Call::post("/control/login").json(&body).send(gateway.control()).await;
    assert_eq!((answer.status(), &answer.json()["id"]), (200, &json!("user:ada@elida")), "{}", answer.text());
    let line = answer.head.field("set-cookie").expect("a cookie").to_owned();
    assert!(line.contains("HttpOnly; SameSite=Strict"), "{line}");
    line.split(';').next().expect("a pair").to_owned()
}

async fn with_cookie(gateway: &Gateway, cookie: &str, call: Call) -> Message {
    call.header("cookie", cookie).send(gateway.control()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_of_a_person_outlives_access_tokens_but_not_the_log_in() {
    let demo = Demo::start().await;
    let (gateway, password) = house(&demo).await;
    let cookie = log_in(&gateway, &password).await;
    let tokens = Call::post("/auth/login").json(&json!({"username": "ada", "password": password}));
    let access =
        tokens.send(gateway.control()).await.json()["access_token"].as_str().expect("a token").to_owned();
    let bearer = format!("Bearer {access}");
    // Several calls at a time: only one of them may use the refresh token, which is good for once.
    let whoami = || with_cookie(&gateway, &cookie, Call::get("/control/whoami"));
    within("the end of three access tokens", async {
        let mut over = 0;
        let mut bearer = bearer;
        while over < 3 {
            let (one, two, three) = tokio::join!(whoami(), whoami(), whoami());
            for answer in [one, two, three] {
                assert_eq!(answer.status(), 200, "{}", answer.text());
            }
            let plain = Call::get("/control/whoami").header("authorization", &bearer);
            if plain.send(gateway.control()).await.status() == 401 {
                over += 1;
                let body = json!({"username": "ada", "password": password});
                let again = Call::post("/auth/login").json(&body).send(gateway.control()).await.json();
                bearer = format!("Bearer {}", again["access_token"].as_str().expect("a token"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let logout = Call::post("/control/logout").header("x-elida-page", "1");
    let answer = with_cookie(&gateway, &cookie, logout).await;
    assert_eq!((answer.status(), answer.json()), (200, json!({"ended": true})));
    assert_eq!(whoami().await.status(), 401);
    let metrics = Call::get("/metrics").header("authorization", &format!("Bearer {TOKEN}"));
    let metrics = metrics.send(gateway.control()).await.text();
    assert!(metrics.contains("\nelida_dashboard_sessions 0\n"), "{metrics}");
}
