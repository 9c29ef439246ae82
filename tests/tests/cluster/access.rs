//! RBAC holds, for service accounts and for users.

use libtest_mimic::Trial;
use tests::cluster::Cluster;

use crate::bed::{Namespace, assert_refused, eventually, sharing};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        sharing("access::a_service_account_has_the_rights_it_was_given", service_account),
        sharing("access::a_user_has_the_rights_of_its_groups", user),
    ]
}

fn service_account(cluster: &Cluster) {
    let namespace = Namespace::create(cluster, "access");
    let at = ["--namespace", &namespace.name];
    let admin = cluster.kubectl();
    let agent = admin.with_kubeconfig(&cluster.service_account(&namespace.name, "agent").unwrap());
    let name = format!("system:serviceaccount:{}:agent", namespace.name);
    let whoami = agent.json(&["auth", "whoami"]).unwrap();
    assert_eq!(whoami["status"]["userInfo"]["username"], name.as_str(), "{whoami}");

    let list = ["get", "configmaps", at[0], at[1]];
    assert_refused(agent.ask(&list, ""), "forbidden");
    let role = ["create", "role", "reader", "--verb=get,list", "--resource=configmaps", at[0], at[1]];
    admin.ask(&role, "").unwrap();
    let account = format!("--serviceaccount={}:agent", namespace.name);
    admin.ask(&["create", "rolebinding", "reader", "--role=reader", &account, at[0], at[1]], "").unwrap();
    eventually("the right to list", || agent.ask(&list, ""));
    assert_refused(agent.ask(&["create", "configmap", "mine", at[0], at[1]], ""), "forbidden");
    assert_refused(agent.ask(&["get", "secrets", at[0], at[1]], ""), "forbidden");
}

fn user(cluster: &Cluster) {
    let admin = cluster.kubectl();
    let nobody = admin.with_kubeconfig(&cluster.user("nobody", &["system:authenticated"]).unwrap());
    assert_refused(nobody.ask(&["get", "nodes"], ""), "forbidden");
    let root = admin.with_kubeconfig(&cluster.user("root", &["system:masters"]).unwrap());
    root.ask(&["get", "nodes"], "").unwrap();
}
