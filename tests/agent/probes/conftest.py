"""Trees of files as boards of four kinds have them: as many files as the sensors look at, and some they must not."""

from pathlib import Path

import pytest

A57 = "processor\t: {0}\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: 0xd07\n\n"
DENVER = "processor\t: {0}\nmodel name\t: ARMv8 Processor rev 0 (v8l)\nCPU implementer\t: 0x4e\nCPU part\t: 0x003\n\n"
A78AE = "processor\t: {0}\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n"
RYZEN = "processor\t: {0}\nmodel name\t: AMD Ryzen 7 5800X 8-Core Processor\ncpu MHz\t\t: {1}\n\n"

NANO = {
    "proc/cpuinfo": "".join(A57.format(core) for core in range(4)),
    "proc/meminfo": "MemTotal:        4059216 kB\nMemFree:          987654 kB\nMemAvailable:    2500000 kB\n",
    "proc/loadavg": "0.52 0.48 0.40 1/345 6789\n",
    "proc/sys/kernel/osrelease": "4.9.253-tegra\n",
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "etc/machine-id": "6f1c8d7a5f5b4c6a9f0e3d2c1b0a9f8e\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 18.04.6 LTS"\nVERSION_ID="18.04"\n',
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: x\n",
    "var/lib/nvpmodel/status": "pmode:0000 fmode:fanNull\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_1 1\n< POWER_MODEL ID=1 NAME=5W >\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1479000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "102000\n",
    "sys/class/devfreq/57000000.gpu/cur_freq": "921600000\n",
    "sys/class/thermal/thermal_zone0/type": "AO-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "44500\n",
    "sys/class/thermal/thermal_zone1/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "37500\n",
    "sys/class/thermal/thermal_zone4/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone4/temp": "100000\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": "4210\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_1": "POM_5V_GPU\n",
    "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power1_input": "1020\n",
}

TX2 = {
    "proc/cpuinfo": A57.format(0) + DENVER.format(1) + DENVER.format(2) + "".join(A57.format(n) for n in (3, 4, 5)),
    "proc/meminfo": "MemTotal:        8047664 kB\nMemAvailable:    6000000 kB\n",
    "proc/loadavg": "1.00 0.48 0.40 1/345 6789\n",
    "proc/device-tree/model": "quill\0",
    "proc/sys/kernel/hostname": "tx2\n",
    "etc/machine-id": "uninitialized\n",
    "sys/class/net/eth0/address": "00:04:4b:aa:bb:cc\n",
    "sys/class/net/eth0/device/vendor": "x\n",
    "sys/class/net/docker0/address": "02:42:11:22:33:44\n",
    "sys/class/net/lo/address": "00:00:00:00:00:00\n",
    "etc/nv_tegra_release": "# R32 (release), REVISION: 5.2, GCID: 27767740, BOARD: t186ref, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0003\n",
    "sys/class/devfreq/17000000.gp10b/cur_freq": "1300500000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "204000000\n",
    "sys/class/thermal/thermal_zone0/type": "BCPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "41000\n",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "asleep\n",
    "sys/bus/i2c/drivers/ina3221x/0-0040/iio:device0/rail_name_0": "VDD_SYS_GPU\n",
    "sys/bus/i2c/drivers/ina3221x/0-0040/iio:device0/in_power0_input": "3000\n",
    "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/rail_name_0": "VDD_IN\n",
    "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input": "9120\n",
}

ORIN = {
    "proc/cpuinfo": "".join(A78AE.format(core) for core in range(6)),
    "proc/meminfo": "MemTotal:        7620000 kB\nMemAvailable:    5000000 kB\n",
    "proc/loadavg": "0.10 0.48 0.40 1/345 6789\n",
    "sys/firmware/devicetree/base/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0001\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=MAXN_SUPER >\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
    "sys/class/hwmon/hwmon0/name": "tmp102\n",
    "sys/class/hwmon/hwmon0/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_CPU_GPU_CV\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "600\n",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_SOC\n",
    "sys/class/hwmon/hwmon1/in2_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr2_input": "300\n",
    "sys/class/hwmon/hwmon1/in3_label": "NC\n",
    "sys/class/hwmon/hwmon1/in3_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr3_input": "9000\n",
}

DESKTOP = {
    "proc/cpuinfo": RYZEN.format(0, "3600.000") + RYZEN.format(1, "2200.500"),
    "proc/meminfo": "MemTotal:       32000000 kB\nMemAvailable:   20000000 kB\n",
    "proc/loadavg": "3.25 2.00 1.00 5/999 12345\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15\n"
    "GCC version:  gcc version 12.3.0\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "etc/os-release": "PRETTY_NAME='Debian GNU/Linux 13 (trixie)'\n",
    "sys/class/thermal/thermal_zone0/type": "acpitz\n",
    "sys/class/thermal/thermal_zone0/temp": "16800\n",
    "sys/class/thermal/thermal_zone2/type": "x86_pkg_temp\n",
    "sys/class/thermal/thermal_zone2/temp": "61000\n",
    "sys/class/thermal/thermal_zone3/type": "broken\n",
    "sys/class/thermal/thermal_zone3/temp": "-274000\n",
}

BOARDS = {"nano": NANO, "tx2": TX2, "orin": ORIN, "desktop": DESKTOP}


@pytest.fixture
def boards():
    """The files of each board, by path."""
    return BOARDS


@pytest.fixture
def plant(tmp_path: Path):
    """Lays out a named board's files, changed as told (None: left out), and gives their root."""

    def make(name: str, **changes: str) -> str:
        files = dict(BOARDS.get(name, {}), **changes)
        for path, text in files.items():
            if text is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(text.encode())
        return str(tmp_path)

    return make
