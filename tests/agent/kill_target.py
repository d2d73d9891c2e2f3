"""The agent's updater as a process to be killed: python kill_target.py DIR PACK

Takes the pack's assignment in, serves live inputs, and ends by itself when the update is over.
"""

import sys
from pathlib import Path

from bench import QUICK
from fleet_world import DEVICE, PROFILE, TENANT, digits

from edgec_agent.config import load_config
from edgec_agent.daemon import make_parts, utc_now
from edgec_agent.eligibility import device_facts
from edgec_agent.folder import only_agent, open_state
from edgec_agent.identity import Identity
from edgec_agent.machine import Phase
from edgec_agent.pack import open_pack
from edgec_agent.updater import Updater

OVER = {Phase.COMMITTED, Phase.REJECTED, Phase.ROLLED_BACK}


def main(folder: Path, pack_path: Path) -> None:
    # Kills and a busy machine must not pass for the candidate's fault: such rules have own tests.
    patient = {
        "probation.restarts": 10_000,
        "boots": 10_000,
        "probation.samples": 20,
    }
    config = load_config(folder, QUICK | patient)
    with only_agent(folder), open_pack(pack_path) as pack:
        state = open_state(folder)
        made = make_parts(
            folder,
            config,
            device_facts((PROFILE,)),
            state,
            sources=lambda offer: (pack,),
            changed=lambda: None,
        )
        identity = Identity(DEVICE, TENANT, "127.0.0.1", 1, "https://127.0.0.1:1", (PROFILE,))
        root = (pack_path / "root.json").read_bytes()
        updater = Updater(made.parts, identity, root, utc_now)
        state.begin_boot()
        updater.boot()
        print("ready", flush=True)
        updater.take(pack.desired())
        images, turn = digits()[0], 0
        while True:
            updater.run_once()
            for model in made.parts.host.models():
                made.parts.host.infer(model, {"image": images[turn % 400 : turn % 400 + 4]})
            turn += 4
            offer, update = updater.assignments.offer, state.update("digits")
            if offer and update and update.phase in OVER:
                wanted = offer.assigned[0].sha256
                if update.manifest == wanted and updater._desired is None:
                    break
        updater.close()
        print(f"over {update.phase}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
