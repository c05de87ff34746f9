"""Makes compare-in-mlflow.png: the attack runs of `make demo` in the MLflow UI, and the list of columns.

With Chromium and its driver installed, from the folder of the runs, while `advtrack dashboard` serves them:

    python docs/howto/compare_in_mlflow.py http://127.0.0.1:5000 compare-in-mlflow.png
"""

import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait


def main(server: str, picture: str) -> None:
    """Open the run table and the list of its columns, and save what is seen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1500,800"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))

    def press(path: str) -> None:
        WebDriverWait(browser, 120).until(lambda _: browser.find_elements(By.XPATH, path))[0].click()

    browser.get(f"{server}/#/experiments/1/runs?searchFilter={quote('tags.`advtrack.stage` = ' + repr('attack'))}")
    WebDriverWait(browser, 120).until(lambda _: browser.find_elements(By.PARTIAL_LINK_TEXT, "attack "))
    press("//button[@aria-label='Close']")  # the assistant
    press("//button[normalize-space()='Columns']")
    WebDriverWait(browser, 120).until(
        lambda _: browser.find_elements(By.XPATH, "//input[@placeholder='Search columns']")
    )
    Path(picture).write_bytes(browser.get_screenshot_as_png())
    browser.quit()


if __name__ == "__main__":
    main(*sys.argv[1:])
