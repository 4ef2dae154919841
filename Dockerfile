# The command `mtsbert` on processors alone, and not as root.
#   docker build -t mtsbert .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" mtsbert --help
FROM python:3.11-slim

# PyTorch's index of wheels without CUDA, given with --build-arg, makes the image gigabytes smaller.
ARG PIP_EXTRA_INDEX_URL
# Models from the Hub go where every user may write.
ENV PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    HF_HOME=/tmp/huggingface

WORKDIR /mtsbert
COPY requirements.txt ./
RUN pip install -r requirements.txt
COPY . ./
RUN pip install .

USER 1000:1000
WORKDIR /data
ENTRYPOINT ["mtsbert"]
