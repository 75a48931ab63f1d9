"""The whole study from one command: `jaxdiv` by the name that it has in a clone.

python launch.py                                  generated benchmarks, minutes on a CPU
python launch.py --config=configs/sample.py       real images
python launch.py --config.maml.steps=500          any field of the configuration
python launch.py --dry_run                        what would be done
python launch.py --help
"""

from jaxdiv.cli import main

if __name__ == "__main__":
    main()
