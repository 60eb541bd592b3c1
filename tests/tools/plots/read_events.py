"""Prints what TensorBoard reads in a folder, as JSON: {"tag": [[step, value], ...]}; under "images"
{"tag": [{"step", "size"}]} and under "hparams" the session, where there are any.

Usage: read_events.py FOLDER
"""
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "images": 0})
events.Reload()
read = {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
read["images"] = {tag: [{"step": e.step, "size": [e.width, e.height]} for e in events.Images(tag)]
                  for tag in events.Tags()["images"]}
session = {}
for content in events.summary_metadata.values():
    if content.plugin_data.plugin_name != "hparams":
        continue
    data = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
    kind = data.WhichOneof("data")
    if kind == "session_start_info":
        session["values"] = {name: getattr(value, value.WhichOneof("kind"))
                             for name, value in data.session_start_info.hparams.items()}
    elif kind == "experiment":
        session["names"] = sorted(info.name for info in data.experiment.hparam_infos)
        session["metrics"] = [info.name.tag for info in data.experiment.metric_infos]
    else:
        session["status"] = api_pb2.Status.Name(data.session_end_info.status)
read["hparams"] = session
print(json.dumps(read))
