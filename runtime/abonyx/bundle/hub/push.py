"""Upload a bundle to the hub: check every byte, make a README that includes the cards, and write one commit."""

from __future__ import annotations

from abonyx.bundle.bundle import Bundle, shown_names
from abonyx.bundle.files import check_files, unlisted_files
from abonyx.bundle.hub.api import Hub, RepoState, is_offline
from abonyx.bundle.hub.readme import readme
from abonyx.bundle.listed import file_of_head
from abonyx.bundle.manifest import MANIFEST_NAME, README_NAME
from abonyx.bundle.training_rows import TRAINING_SEQUENCES_NAME
from abonyx.errors import BundleError, ConfigError
from abonyx.hub_name import HubName
from abonyx.logs import LOGGER
from abonyx.wording import option

# The hub creates this file in every repository.
_HUB_FILE = ".gitattributes"


def push(bundle: Bundle, name: HubName, *, public: bool = False, publish_sequences: bool = False) -> HubName:
    """Upload a bundle to a repository. The repository is created if it does not exist.

    Args:
        bundle: the bundle.
        name: the repository, without revision and hash, because a push makes a new commit on main.
        public: whether a new repository is public. An existing repository must be public if this is true, else private.
        publish_sequences: whether training sequences in the bundle may go to a public repository.

    Returns:
        The bundle's name with commit and hash.

    Raises:
        ConfigError: the name has a revision or a hash; there is no token; the repository is public and `public` is
            false, or the reverse; training sequences would be published.
        BundleError: a file is missing, damaged or not listed; or the hub refuses.
    """
    _refuse_name(name)
    stored = _stored_sequences(bundle)
    if stored and public and not publish_sequences:
        what = f"{bundle.path}: {shown_names(stored)}: contains training sequences, which everybody could read"
        fix = f"Push to a private repository, fit without them, or allow it with {option('publish_sequences')}."
        raise ConfigError(what, fix)
    unlisted = unlisted_files(bundle)
    if unlisted:
        what = f"{bundle.path}: {len(unlisted)} files that the manifest does not list: {shown_names(unlisted)}"
        raise BundleError(what, "Remove them, or export the bundle again.")
    check_files(bundle, bundle.manifest.files, use_cache=False)
    text = readme(bundle, name.repo)
    hub = Hub(name.repo, "push")
    if hub.token is None:
        raise ConfigError(f"{name}: a push needs a token", "Set HF_TOKEN to a token that may write there.")
    state = _repository(hub, name, public)
    files = {path: bundle.path / path for path in (MANIFEST_NAME, *bundle.manifest.files)}
    size = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    to = f"the {'public' if public else 'private'} repository {name} at {hub.endpoint}"
    LOGGER.info(f"pushing {bundle.label()}: {len(files) + 1} files, {size / 1e6:,.1f} MB, to {to}")
    if stored:
        LOGGER.warning(f"note: {shown_names(stored)}: the repository's readers can read every training sequence")
    commit = hub.commit([*files.items(), (README_NAME, text.encode())], f"abonyx bundle {bundle.sha256[:12]}")
    left = sorted(set(state.sizes if state else ()) - {*files, README_NAME, _HUB_FILE})
    if left:
        LOGGER.warning(f"note: {name} has {len(left)} files that do not belong to this bundle: {shown_names(left)}")
    return name.pinned(commit, bundle.sha256)


def _refuse_name(name: HubName) -> None:
    if name.revision or name.sha256:
        raise ConfigError(f"{name}: a push always makes a new commit on main", f"Give only hf:{name.repo}.")
    if is_offline():
        raise ConfigError(f"{name}: HF_HUB_OFFLINE is set, which forbids every request", "Unset it to push.")


def _stored_sequences(bundle: Bundle) -> list[str]:
    heads = bundle.manifest.heads
    files = [file_of_head(TRAINING_SEQUENCES_NAME, head.name, heads[0].name) for head in heads]
    return [file for file in files if file in bundle.manifest.files]


def _repository(hub: Hub, name: HubName, public: bool) -> RepoState | None:
    """The content that the repository had before; None if it did not exist, and this function has created it."""
    state = hub.exists()
    if state is None:
        hub.create(private=not public)
    elif state.private == public:
        is_, would = (
            ("private", f"{option('public')} is given") if public else ("public", f"{option('public')} is not given")
        )
        fix = "Change it in the repository's settings, or " + (
            f"leave {option('public')} out." if public else f"give {option('public')}."
        )
        raise ConfigError(f"{name}: the repository is {is_}, and {would}", fix)
    return state
