"""The embedded study: generated benchmarks of known diversity, no download, minutes on a laptop's CPU.

    python launch.py

Eight benchmarks whose classes are ever farther apart, a small random probe, the conv-4 learner and all five methods.
Measured diversity must rise with the true one (`gauss-S` has spread S), and accuracy rises with it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxdiv.methods import registry


def get_config() -> ConfigDict:
    config = ConfigDict(
        {
            "seed": 0,
            "benchmarks": (
                "gauss-0.05",
                "gauss-0.1",
                "gauss-0.17",
                "gauss-0.25",
                "gauss-0.4",
                "gauss-0.6",
                "gauss-1.0",
                "gauss-1.6",
            ),
            # Your own data sets: each one's fields by its name (configs/own.py). Each is a benchmark by its name.
            "datasets": {},
            # The same in short, of paths alone: DIR or NAME=DIR, with commas between several; by default the folder's
            # name. The benchmark "images" is all of your own data sets together.
            "images": "",
            # How diversity is measured: fills the estimator, head, distance and interval of `probe` and
            # `data.augment.diversity` where they are empty (study/config.py). "jaxdiv", or "paper": as its Table 1.
            "preset": "jaxdiv",
            "methods": ("pt", "fo_maml_5", "fo_maml_10", "ho_maml_5", "ho_maml_10"),  # and protonet
            "seeds": (0,),  # training runs of each benchmark and method
            "task": {"ways": 5, "shots": 5, "queries": 15},
            "data": {
                "archive_dir": "",  # where the archives of real data sets are; missing ones are downloaded
                "dir": "",  # where prepared data sets and downloads are kept; empty: in ~/.cache/jaxdiv
                "download": True,  # whether archives may be downloaded
                "partial": False,  # leave out classes that are absent or too small, instead of refusing
                "without_imagenet": False,  # leave out the 43 images of CUB that are also in ImageNet, as the study did
                "skip_broken": False,  # leave out your own images that cannot be decoded, instead of refusing
                "split": {  # of the classes of your own data sets that have no split of their own
                    "fractions": (0.64, 0.16, 0.2),  # for train, val, test, drawn
                    "seed": 0,  # by this seed
                    "file": "",  # or as a file tells: a line `train CLASS`, `val CLASS` or `test CLASS` for each
                },
                # Every train split cut to the same number of classes, as evenly from its data sets as can be, and of
                # images of each: a study in which size cannot explain anything. 0: all there are.
                "cut": {"classes": 0, "images": 0},
                # The study's train augmentation of each data set (generated ones have none; your own get that of
                # photographs), in the tasks that diversity is measured on (None: the preset's) and in training.
                "augment": {"diversity": placeholder(bool), "training": False},
                "classes": (32, 8, 16),  # train, val, test classes of a generated benchmark
                "images_per_class": 20,
            },
            "sampling": {  # of benchmarks like "mini_imagenet@k_dpp": see configs/samplers.py
                "few_classes": 10,  # few_classes: how many
                "batch_tasks": 4,  # one_batch: how many tasks
                "hard_among": 2,  # hard: how many times as many tasks are drawn as the learner takes
                "class_images": 20,  # at most, of each class that is embedded for nearest, greedy and k_dpp
            },
            "controlled": {  # the controlled experiment: see configs/controlled.py
                "pool": "",  # the benchmark whose train classes are drawn from, instead of `benchmarks`
                "subsets": 3,  # of each level of diversity: low, middle, high
                "classes": 24,  # of a subset, as many of each of the pool's data sets
                "images": 20,  # of each class
                "candidates": 144,  # classes of each data set that are embedded and chosen from
            },
            "choice": {  # of classes by diversity, in a study without methods: see configs/choose.py
                "classes": 0,  # how many; 0: there is none
                "pool": "",  # the benchmark whose train classes are chosen from; empty: all of your own images
                "have": "",  # what one has already and the choice adds to: a benchmark, or a folder of images
                "goal": "most",  # or least diverse
                "images": 20,  # at most, of each class that is embedded; the gain is measured with half of them
            },
            "probe": {
                "name": "resnet10_narrow",
                "weights": "",  # a file of weights; "imagenet": torchvision's; empty: random parameters
                "seed": 0,
                "pixels": 16,
                "tasks": 12,
                "estimator": "",  # empty: the preset's (exact); also of the next three
                "head": "",  # converged
                "distance": "",  # task2vec_scale_free
                "interval": "",  # jackknife
                "chunk": 0,  # examples of a task in a device's memory at once; 0: as many as fit
                # Of the tasks (at most all), embedded twice for the noise floor of a stochastic estimator or head.
                "floor_tasks": 4,
            },
            "learner": {
                "net": "conv4",
                "width": 8,
                "pixels": 16,
                "dropout": 0.1,  # ResNet-12's, in training
                "compute": "float32",  # or bfloat16, of the convolutions
                "batch_norm": "transductive",  # or support_statistics, or running: see jaxdiv/nets/network.py
            },
            "compute": {
                "precision": "highest",  # of products and convolutions; or high, default: docs/performance.md
                "tasks_at_once": 0,  # on each device, in training, tests and Task2Vec; 0: as many as its memory holds
                "deterministic": False,  # GPU kernels that give the same bits each time, slower
            },
            "launch": {  # what a cluster is asked for by --launcher=slurm or ray: docs/operating.md; changes no result
                "retries": 3,  # of a unit whose process died without getting further
                "cluster": "slurm",  # or local: submitit's jobs as processes of this machine
                "account": "",  # SLURM's, and the next
                "qos": "",
                "setup": (),  # lines of shell before a SLURM job
                "requeues": 100,  # of a SLURM job that came to its limit of minutes
                # For all stages, unless one has its own: --config.launch.train.minutes=1440
                "partition": "",  # SLURM's
                "cpus": 4,
                "memory_gb": 16,
                "gpus": 1,  # 0 in `prepare` and `diversity`
                "tpus": 0,  # Ray's
                "minutes": 240,  # of a SLURM job
            },
            "pt": {"steps": 200, "batch_size": 64, "learning_rate": 1e-3},
            "maml": {
                "steps": 30,
                "meta_batch": 2,  # tasks in a step
                "learning_rate": 3e-3,
                "inner_lr": 0.1,
                "train_inner_steps": 0,  # 0: as many as in a test, which the method's name says; the study's code: 5
                "inner_params": "all",  # what the inner loop changes; "head": ANIL
                "learn_inner_lr": False,  # Meta-SGD: an inner learning rate for each parameter
                "grad_reduction": "mean",  # of the gradients of a meta-batch; the study's code has their "sum"
                # Recompute activations: memory that hardly grows with the inner steps. Unset: where higher order would
                # not fit the device otherwise, and on a CPU never.
                "remat": placeholder(bool),
            },
            "training": {
                "optimizer": "adam",  # or adamw, sgd
                "schedule": "constant",  # or cosine
                "warmup": 0,  # steps
                "weight_decay": 0.0,  # adamw's
                "grad_clip_norm": 0.0,  # global norm of a gradient; 0: none
                "minutes": 0.0,  # a unit's at most; 0: no limit
                "validate_every": 0,  # steps; 0: never. Tests then use the best checkpoint instead of the last
                "validation_tasks": 50,
                "patience": 0,  # validations without a new best that end training; 0: no such end
                "checkpoint_every": 15,
            },
            "evaluation": {
                "tasks": 25,
                "test_sets": ("own", "fixed"),
                "fixed_test_set": "all",  # the union of every base set of the study
                "dropout": False,  # left on in MAML's tests, as in the study's code
            },
        }
    )
    general = ("partition", "cpus", "memory_gb", "gpus", "tpus", "minutes")
    for stage in ("prepare", "select", "embed", "diversity", "train", "evaluate"):
        config.launch[stage] = {name: config.launch.get_oneway_ref(name) for name in general}
    config.launch.prepare.gpus = config.launch.diversity.gpus = 0  # these are the CPU's
    config.launch.prepare.tpus = config.launch.diversity.tpus = 0
    # Any other method, `protonet` for one, trains as MAML does unless its own section says otherwise.
    for section in registry.sections():
        if section not in config:
            follows = {name: config.maml.get_oneway_ref(name) for name in ("steps", "meta_batch", "learning_rate")}
            config[section] = follows
    return config
