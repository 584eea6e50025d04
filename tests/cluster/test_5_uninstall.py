"""The end of a release: nothing is left but what the notes say."""

from tests.cluster.kube import Release, name_of, until
from tests.cluster.test_3_runs import SLOW, pods_of

KINDS = (
    "deployments,statefulsets,jobs,pods,services,configmaps,secrets,serviceaccounts,roles,rolebindings,"
    "networkpolicies,poddisruptionbudgets,persistentvolumeclaims,horizontalpodautoscalers,ingresses"
)
OF_THE_NAMESPACE = {"ConfigMap/kube-root-ca.crt", "ServiceAccount/default"}


def test_uninstall_leaves_nothing_but_what_it_says(release: Release) -> None:
    release.upgrade()
    with release.client() as client:
        client.runs.train("going-on", ["colours"], preset="demo", config=SLOW)
        until("its pod is there", lambda: pods_of(release, "going-on"))
    release.helm("uninstall", release.name, "--wait", "--timeout", "5m")

    def left() -> set[str]:
        found = release.items(KINDS)
        return {f"{each['kind']}/{name_of(each)}" for each in found} - OF_THE_NAMESPACE

    until("jobs of runs are gone, too", lambda: not any(each.startswith(("Job/", "Pod/")) for each in left()))
    until("nothing is left", lambda: not left(), 60)
